"""Who may read over HTTP, how often, and how many streams and waiting reads may be open at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from gateway.api.access import Gateway, require_claims
from gateway.api.rate_limits import Rates
from gateway.auth.claims import MESSAGES as TOKEN_CODES
from gateway.auth.claims import Claims
from planwire_client.core.topic import Topic, TopicError
from sync.http.fields import TOPIC_PATTERN
from sync.http.parameters import PathText
from sync.http.problem import Problem

TOPIC = PathText(
    "topic", "A topic's name. The slash after an environment stands for itself.", TOPIC_PATTERN, "tenant:acme"
)

# A line break cannot be part of a path: such a topic finds no route, hence not_found.
PROBLEMS = (
    *TOKEN_CODES, "topic_forbidden", "topic_invalid", "disconnected", "not_found", "rate_limited", "too_many_streams",
    "store_unavailable",
)  # fmt: skip
"""The codes that every read may be answered with."""


class Readers:
    """Admits reads, and limits those that stay open: in all and per subject."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._rates = Rates(gateway.settings.reads_per_s)
        self._by_subject: Counter[str] = Counter()

    def admit(self, request: Request) -> tuple[str, Claims]:
        """Return the topic that the path names and the claims that open it, and count the read.

        Raises:
            Problem: topic_invalid, rate_limited, or as `require_claims`.
        """
        topic = request.path_params["topic"]
        try:
            Topic.parse(topic)
        except TopicError as error:
            raise Problem("topic_invalid", str(error)) from None
        claims = require_claims(self._gateway, request, topic)
        self._rates.spend(claims.sub, time.monotonic())
        return topic, claims

    @contextmanager
    def hold(self, subject: str) -> Iterator[None]:
        """Hold one place while open.

        Raises:
            Problem: 429 too_many_streams.
        """
        settings, metrics = self._gateway.settings, self._gateway.metrics
        if metrics.streams >= settings.streams_max or self._by_subject[subject] >= settings.streams_per_subject:
            raise Problem(
                "too_many_streams", "too many streams and waiting reads are open", headers={"Retry-After": "5"}
            )
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
