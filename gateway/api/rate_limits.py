"""The rate of reads: per token subject, or per client address for routes without a token."""

from __future__ import annotations

import time
from collections import OrderedDict

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.addresses import LOCAL, TrustedProxies, group
from gateway.auth.publish_keys import TokenBucket
from gateway.settings import GatewaySettings
from sync.http.problem import Problem

BURST_S = 5.0
"""Burst, as seconds of the rate."""

KEPT_MAX = 10_000
"""Maximum number of clients whose rate is kept; the least recent one is removed first."""


class Rates:
    """One token bucket per client, all with the same rate."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, client: str, now: float) -> None:
        """Count one read of a client.

        Args:
            client: its key: a subject or an address.
            now: seconds of the monotonic clock.

        Raises:
            Problem: 429 rate_limited, with Retry-After.
        """
        bucket = self._buckets.pop(client, None) or TokenBucket(self._per_s, max(1.0, self._per_s * BURST_S))
        self._buckets[client] = bucket
        if len(self._buckets) > KEPT_MAX:
            self._buckets.popitem(last=False)
        wait_s = bucket.take(1, now)
        if wait_s:
            detail = f"{self._per_s:g} reads a second are allowed; see PLANWIRE_READS_PER_S"
            raise Problem("rate_limited", detail, headers={"Retry-After": str(int(wait_s) + 1)})


class AddressRates:
    """A limit of PLANWIRE_READS_PER_S requests a second per client address."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._rates = Rates(settings.reads_per_s)
        self._proxies = TrustedProxies(settings.trusted_proxies)

    def spend(self, request: Request) -> None:
        """Count one request of its client.

        Raises:
            Problem: 429 rate_limited, with Retry-After.
        """
        peer = request.client.host if request.client is not None else LOCAL
        address = self._proxies.client(peer, ",".join(request.headers.getlist("x-forwarded-for")))
        self._rates.spend(group(address), time.monotonic())


class RatedByAddress:
    """An ASGI app with that limit."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._rates = AddressRates(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 429."""
        try:
            self._rates.spend(Request(scope))
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)
