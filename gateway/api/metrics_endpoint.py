"""GET /metrics: who may read it, and its text, made at most once a second however many ask for it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.access import Gateway, bearer
from gateway.auth.addresses import LOCAL, MESH_HEADERS, is_forwarded, is_internal
from gateway.metrics import CONTENT_TYPE
from sync.http.openapi import Answer, Operation
from sync.http.problem import Problem
from sync.store.counters import Counters

CACHE_S = 1.0
"""How long one text is the answer to every scrape. Making one takes the event loop some 10 ms."""


class Scrape:
    """The route."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tallies = Counters(gateway.store)
        token = gateway.settings.metrics_token.get_secret_value()
        # Digests are of equal length, so that the comparison's time says nothing of the token.
        self._token = _digest(token) if token else b""
        self._making = asyncio.Lock()
        self._text = b""
        self._made_at = -CACHE_S

    @Operation(
        "GET",
        "/metrics",
        "metrics",
        "Prometheus metrics of this process; with PLANWIRE_METRICS_TOKEN, without it for private addresses alone.",
        {200: Answer("The text format.", {"type": "string"}, media_type="text/plain")},
        ("key_missing", "key_invalid", "metrics_closed"),
        ("metricsToken", ""),
    )
    async def answer(self, request: Request) -> Response:
        """Return the metrics of this process in Prometheus' text format.

        Raises:
            Problem: 401 key_missing or key_invalid where there is a token; 403 metrics_closed where there is none, for
                a request that may come from the internet.
        """
        self._require_allowed(request)
        return Response(await self._current(), headers={"Content-Type": CONTENT_TYPE})

    def _require_allowed(self, request: Request) -> None:
        if self._token:
            presented = bearer(request)
            if not hmac.compare_digest(_digest(presented), self._token):
                code = "key_invalid" if presented else "key_missing"
                self._gateway.metrics.auth_failures[code] += 1
                raise Problem(code, "send Authorization: Bearer and the value of PLANWIRE_METRICS_TOKEN")
            return
        peer = LOCAL if request.client is None else request.client.host
        # A scrape within a service mesh comes straight from another pod, though the mesh has added headers to it.
        if not is_internal(peer) or is_forwarded(set(request.headers) - MESH_HEADERS):
            detail = "without PLANWIRE_METRICS_TOKEN only private addresses may read this, and not through a proxy"
            raise Problem("metrics_closed", detail)

    async def _current(self) -> bytes:
        # Whoever comes while a text is being made waits for that one.
        async with self._making:
            if time.monotonic() - self._made_at >= CACHE_S:
                metrics = self._gateway.metrics
                await self._tallies.refresh()
                metrics.counters = self._tallies.counts
                if metrics.backlog is not None:
                    await metrics.backlog.refresh()
                self._text = metrics.exposition()
                self._made_at = time.monotonic()
            return self._text


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
