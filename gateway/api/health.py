"""Liveness, readiness, metrics, and the answer of /v1/connect to requests other than a WebSocket handshake."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Literal

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.access import bearer, refusal
from gateway.auth.addresses import LOCAL, MESH_HEADERS, is_forwarded, is_internal
from gateway.auth.publish_keys import hash_key
from gateway.node import Node
from sync.http.body import json_response
from sync.http.fields import Model
from sync.http.openapi import Answer, Operation
from sync.http.problem import Problem
from sync.store.counters import Counters
from sync.store.models import StoreError

CACHE_S = 1.0
"""How long a metrics text is cached. Making one blocks the event loop for about 10 ms."""


class Alive(Model):
    """The process serves."""

    status: Literal["alive"]


class Ready(Model):
    """The process serves, hears the bus, reaches a store that is fit for use, and has its keys."""

    status: Literal["ready"]
    checks: dict[str, bool]


class Health:
    """The routes of health checks and metrics."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tallies = Counters(node.store)
        # Digests have equal lengths, so that the time of a comparison does not depend on the token.
        token = node.settings.metrics_token.get_secret_value()
        self._token = hash_key(token) if token else b""
        self._making = asyncio.Lock()
        self._text = b""
        self._made_at = -CACHE_S

    @Operation("GET", "/healthz", "health", "Whether the process is alive.", {200: Answer("It is.", Alive)})
    async def healthz(self, _: Request) -> Response:
        """Answer at once, without any check."""
        return json_response({"status": "alive"})

    @Operation(
        "GET",
        "/readyz",
        "readiness",
        "Whether the bus is verified, the store fit for use, and no drain under way.",
        {200: Answer("All of that.", Ready)},
        ("not_ready",),
    )
    async def readyz(self, _: Request) -> Response:
        """Return the results of all checks; a 503 problem if one fails."""
        node = self._node
        problems = node.inspection.problems
        checks = {
            "bus": node.hub.fresh,
            "store": await self._answers(),
            "rights": "rights" not in problems,
            "eviction": "eviction" not in problems,
            "keys": not node.auth.awaits_keys,
            "serving": not node.metrics.draining,
        }
        if not all(checks.values()):
            failed = ", ".join(name for name, is_good in checks.items() if not is_good)
            reasons = "".join(f"; {reason}" for reason in problems.values())
            raise Problem("not_ready", f"not ready: {failed}{reasons}", extra={"checks": checks})
        return json_response({"status": "ready", "checks": checks})

    async def _answers(self) -> bool:
        """Return whether the store answers within `ready_timeout_s`."""
        try:
            async with asyncio.timeout(self._node.settings.ready_timeout_s):
                await self._node.store.ping()
        except (StoreError, TimeoutError):
            return False
        return True

    @Operation(
        "GET",
        "/v1/connect",
        "connect",
        "Open a WebSocket, subprotocol planwire.v1 (/v1/asyncapi.json describes it); anything but an opening handshake"
        " is refused.",
        {101: Answer("The WebSocket is open.")},
        ("upgrade_required",),
    )
    async def connect(self, _: Request) -> Response:
        """Refuse the request. The server handles opening handshakes before they reach a route."""
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise Problem("upgrade_required", "a WebSocket is opened here, subprotocol planwire.v1", headers=upgrade)

    @Operation(
        "GET",
        "/metrics",
        "metrics",
        "Prometheus metrics of this process; with PLANWIRE_METRICS_TOKEN, without it for private addresses alone.",
        {200: Answer("The text format.", {"type": "string"}, media_type="text/plain")},
        ("key_missing", "key_invalid", "metrics_closed"),
        ("metricsToken", ""),
    )
    async def metrics(self, request: Request) -> Response:
        """Return the metrics of this process in Prometheus' text format.

        Raises:
            Problem: with a configured token, 401 key_missing or key_invalid; without one, 403 metrics_closed if the
                request may come from the internet.
        """
        self._require_allowed(request)
        return Response(await self._current(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def _require_allowed(self, request: Request) -> None:
        if self._token:
            presented = bearer(request)
            if not hmac.compare_digest(hash_key(presented), self._token):
                code = "key_invalid" if presented else "key_missing"
                raise refusal(self._node, code, "send Authorization: Bearer and the value of PLANWIRE_METRICS_TOKEN")
            return
        peer = LOCAL if request.client is None else request.client.host
        # Within a service mesh a scrape comes straight from another pod, but the mesh adds headers to it.
        if not is_internal(peer) or is_forwarded(set(request.headers) - MESH_HEADERS):
            detail = "without PLANWIRE_METRICS_TOKEN only private addresses may read this, and not through a proxy"
            raise Problem("metrics_closed", detail)

    async def _current(self) -> bytes:
        # Concurrent scrapes share one text.
        async with self._making:
            if time.monotonic() - self._made_at >= CACHE_S:
                metrics = self._node.metrics
                await self._tallies.refresh()
                metrics.counters = self._tallies.counts
                if metrics.backlog is not None:
                    await metrics.backlog.refresh()
                self._text = metrics.exposition()
                self._made_at = time.monotonic()
            return self._text
