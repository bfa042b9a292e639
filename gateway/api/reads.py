"""Admission of reads over HTTP: tokens, read rates, and limits on open streams and waiting reads."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.access import require_claims, take
from gateway.auth.addresses import LOCAL, TrustedProxies, group
from gateway.auth.claims import MESSAGES as TOKEN_CODES, Claims
from gateway.auth.publish_keys import TokenBucket
from gateway.node import Node
from gateway.settings import GatewaySettings
from planwire_client.core.topic import TopicError, decoded_topic
from sync.http.fields import READABLE_TOPIC_PATTERN, TOPIC_IN_PATH
from sync.http.parameters import PathText
from sync.http.problem import Problem

TOPIC = PathText("topic", TOPIC_IN_PATH, READABLE_TOPIC_PATTERN, "tenant:acme")

# not_found: a topic with a line break matches no route.
PROBLEMS = (
    *TOKEN_CODES, "topic_forbidden", "topic_invalid", "disconnected", "not_found", "rate_limited", "too_many_streams",
    "store_unavailable",
)  # fmt: skip
"""Problem codes that every read may return."""

BURST_S = 5.0
"""Burst, as seconds of the rate."""

KEPT_MAX = 10_000
"""Maximum number of clients with a stored rate; the least recently seen is removed first."""


class Rates:
    """One token bucket per client, all with the same rate."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def spend(self, client: str, now: float) -> None:
        """Count one read of a client.

        Args:
            client: the client's key, a subject or an address.
            now: seconds of the monotonic clock.

        Raises:
            Problem: 429 rate_limited, with Retry-After.
        """
        bucket = self._buckets.pop(client, None) or TokenBucket(self._per_s, BURST_S)
        self._buckets[client] = bucket
        if len(self._buckets) > KEPT_MAX:
            self._buckets.popitem(last=False)
        take(bucket, 1, now, f"{self._per_s:g} reads a second are allowed; see PLANWIRE_READS_PER_S")


class Readers:
    """Admits reads, and limits open streams and waiting reads: in total and per subject."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rates = Rates(node.settings.reads_per_s)
        self._by_subject: Counter[str] = Counter()

    def admit(self, request: Request) -> tuple[str, Claims]:
        """Return the topic in the path and the token's claims, and count the read.

        Raises:
            Problem: topic_invalid, rate_limited, or as `require_claims`.
        """
        try:
            topic = str(decoded_topic(TOPIC.read(request)))
        except TopicError as error:
            raise Problem("topic_invalid", str(error)) from None
        claims = require_claims(self._node, request, topic)
        self._rates.spend(claims.sub, time.monotonic())
        return topic, claims

    @contextmanager
    def hold(self, subject: str) -> Iterator[None]:
        """Count one open stream or waiting read of `subject` while the context is open.

        Raises:
            Problem: 429 too_many_streams.
        """
        settings, metrics = self._node.settings, self._node.metrics
        if metrics.streams >= settings.streams_max or self._by_subject[subject] >= settings.streams_per_subject:
            detail = "too many streams and waiting reads are open"
            raise Problem("too_many_streams", detail, headers={"Retry-After": "5"})
        metrics.streams += 1
        metrics.streams_opened += 1
        self._by_subject[subject] += 1
        try:
            yield
        finally:
            metrics.streams -= 1
            self._by_subject[subject] -= 1
            if not self._by_subject[subject]:
                del self._by_subject[subject]


class AddressRates:
    """A limit of PLANWIRE_READS_PER_S requests a second per client address."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._rates = Rates(settings.reads_per_s)
        self._proxies = TrustedProxies(settings.trusted_proxies)

    def spend(self, request: Request) -> None:
        """Count one request of the request's client address.

        Raises:
            Problem: 429 rate_limited, with Retry-After.
        """
        peer = request.client.host if request.client is not None else LOCAL
        address = self._proxies.client(peer, ",".join(request.headers.getlist("x-forwarded-for")))
        self._rates.spend(group(address), time.monotonic())


def rated_by_address(app: ASGIApp, settings: GatewaySettings) -> ASGIApp:
    """Return `app` limited to PLANWIRE_READS_PER_S requests a second per client address; beyond, it answers 429."""
    rates = AddressRates(settings)

    async def rated(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            rates.spend(Request(scope))
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await app(scope, receive, send)

    return rated
