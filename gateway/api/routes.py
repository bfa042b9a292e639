"""The HTTP side as one list of routes: reading, publishing, health, metrics, and what describes API and protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.access import Gateway
from gateway.api.metrics_endpoint import Scrape
from gateway.api.publish import publish_routes
from gateway.api.rate_limits import AddressRates
from gateway.api.state import state_routes
from gateway.api_docs import asyncapi, openapi
from sync.http.endpoint import route
from sync.http.problem import Problem
from sync.store.store import StoreError

__all__ = ["Gateway", "routes"]


def routes(gateway: Gateway) -> list[Route]:
    """Return every route of the gateway's HTTP API; the caller mounts them beside the intake, console and demo."""

    async def healthz(_: Request) -> Response:
        return _json({"status": "alive"})

    async def connect(_: Request) -> Response:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise Problem("upgrade_required", "a WebSocket is opened here, subprotocol planwire.v1", headers=upgrade)

    async def readyz(_: Request) -> Response:
        problems = gateway.inspection.problems
        checks = {
            "bus": gateway.hub.fresh,
            "store": await _answers(gateway),
            "rights": "rights" not in problems,
            "eviction": "eviction" not in problems,
            "keys": not gateway.auth.awaits_keys,
            "serving": not gateway.metrics.draining,
        }
        if not all(checks.values()):
            failed = ", ".join(name for name, is_good in checks.items() if not is_good)
            reasons = "".join(f"; {reason}" for reason in problems.values())
            raise Problem("not_ready", f"not ready: {failed}{reasons}", extra={"checks": checks})
        return _json({"status": "ready", "checks": checks})

    return [
        *state_routes(gateway),
        *publish_routes(gateway),
        route("/v1/connect", "GET", connect, gateway.metrics.answered),
        route("/healthz", "GET", healthz, gateway.metrics.answered),
        route("/readyz", "GET", readyz, gateway.metrics.answered),
        route("/metrics", "GET", Scrape(gateway).answer, gateway.metrics.answered),
        _description(gateway, "/v1/openapi.json", openapi.document()),
        _description(gateway, "/v1/asyncapi.json", asyncapi.document()),
    ]


def _description(gateway: Gateway, path: str, document: dict[str, Any]) -> Route:
    encoded = orjson.dumps(document)

    rates = AddressRates(gateway.settings)

    async def description(request: Request) -> Response:
        rates.spend(request)
        return Response(encoded, headers={"Cache-Control": "public, max-age=300"}, media_type="application/json")

    return route(path, "GET", description, gateway.metrics.answered)


async def _answers(gateway: Gateway) -> bool:
    """Whether the store answers in time."""
    try:
        async with asyncio.timeout(gateway.settings.ready_timeout_s):
            await gateway.store.ping()
    except (StoreError, TimeoutError):
        return False
    return True


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
