"""Liveness, readiness, and what a socket's path answers to anything but a handshake."""

from __future__ import annotations

import asyncio
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.access import Gateway
from sync.http.body import json_response
from sync.http.fields import Model
from sync.http.openapi import Answer, Operation
from sync.http.problem import Problem
from sync.store.models import StoreError


class Alive(Model):
    """The process serves."""

    status: Literal["alive"]


class Ready(Model):
    """The process serves, hears the bus, reaches a store that is fit for use, and has its keys."""

    status: Literal["ready"]
    checks: dict[str, bool]


class Health:
    """The routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @Operation("GET", "/healthz", "health", "Whether the process is alive.", {200: Answer("It is.", Alive)})
    async def healthz(self, _: Request) -> Response:
        """Answer at once."""
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
        """Answer the checks, as a problem where one fails."""
        gateway = self._gateway
        problems = gateway.inspection.problems
        checks = {
            "bus": gateway.hub.fresh,
            "store": await self._answers(),
            "rights": "rights" not in problems,
            "eviction": "eviction" not in problems,
            "keys": not gateway.auth.awaits_keys,
            "serving": not gateway.metrics.draining,
        }
        if not all(checks.values()):
            failed = ", ".join(name for name, is_good in checks.items() if not is_good)
            reasons = "".join(f"; {reason}" for reason in problems.values())
            raise Problem("not_ready", f"not ready: {failed}{reasons}", extra={"checks": checks})
        return json_response({"status": "ready", "checks": checks})

    async def _answers(self) -> bool:
        """Return whether the store answers in time."""
        try:
            async with asyncio.timeout(self._gateway.settings.ready_timeout_s):
                await self._gateway.store.ping()
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
        """Refuse: opening handshakes do not come here."""
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise Problem("upgrade_required", "a WebSocket is opened here, subprotocol planwire.v1", headers=upgrade)
