"""Actions for development: drop, freeze or delay a socket, and have the simulator do something."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx2

from gateway.console import fault_injection
from gateway.console.auth import Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.routes.query import Action, Members, text_of
from sync.http.problem import Problem

SIMULATOR_TIMEOUT_S = 30.0

SIMULATED = (
    "upgrade", "downgrade", "cancel", "uncancel", "pause", "resume", "past_due", "recover", "trial", "activate",
    "seats", "addon", "remove_addon", "renew",
)  # fmt: skip
"""What the simulator can do to one subscription."""

SCENARIOS = tuple(f"scenario:{name}" for name in ("drop", "duplicate", "late", "outage", "reorder", "skew", "torture"))
"""The histories of many tenants that the simulator can play."""

SOCKET_ACTIONS: dict[str, dict[str, tuple[int, int]]] = {
    "drop": {},
    "freeze": {"seconds": (1, fault_injection.SECONDS_MAX)},
    "delay": {
        "seconds": (1, fault_injection.SECONDS_MAX),
        "delay_ms": (fault_injection.DELAY_MIN_MS, fault_injection.DELAY_MAX_MS),
    },
}
"""What can be done to a socket, with the bounds of its parameters."""

NAMES = frozenset((*SOCKET_ACTIONS, "simulate"))


class DevActions:
    """The actions by name, and what the simulator can be asked for; none outside development."""

    def __init__(self, console: ConsoleObserver) -> None:
        self._console = console
        self._simulator_url = console.node.settings.simulator_url.rstrip("/")
        self.by_name: dict[str, Action] = {}
        self.simulated: tuple[str, ...] = ()
        if console.node.settings.dev:
            self.by_name = {kind: partial(self._on_socket, kind) for kind in SOCKET_ACTIONS}
            if self._simulator_url:
                self.by_name["simulate"] = self._simulate
                self.simulated = (*SIMULATED, *SCENARIOS)

    async def _simulate(self, body: Mapping[str, Any], _: Principal) -> Members:
        action = body.get("action")
        if action not in self.simulated:
            raise Problem("request_invalid", f"action is one of {', '.join(self.simulated)}")
        url = f"{self._simulator_url}/simulate/{str(action).replace('scenario:', 'scenarios/')}"
        names = ("seed",) if action in SCENARIOS else body.keys() - {"action", "seed"}
        given = {name: body[name] for name in names if name in body}
        try:
            async with httpx2.AsyncClient(timeout=SIMULATOR_TIMEOUT_S, trust_env=False) as client:
                answer = await client.post(url, json=given)
                result = answer.json()
        except (httpx2.HTTPError, ValueError):
            raise Problem("action_failed", "the simulator does not answer") from None
        if answer.status_code >= 400:
            detail = result.get("detail", "") if isinstance(result, dict) else ""
            raise Problem("action_failed", f"the simulator refused: {detail or answer.status_code}")
        return {"status": answer.status_code, "result": result}

    async def _on_socket(self, kind: str, body: Mapping[str, Any], _: Principal) -> Members:
        session = text_of(body, "session")
        about: Members = {"action": kind, "session": session}
        for name, (least, most) in SOCKET_ACTIONS[kind].items():
            value = body.get(name)
            if type(value) is not int or not least <= value <= most:
                raise Problem("request_invalid", f"{name} is a number from {least} to {most}")
            about[name] = value
        answers = await self._console.ask_gateways("socket", **about)
        holder = next((name for name, is_here in answers.of.items() if is_here is True), None)
        if holder is None:
            raise Problem("not_found", "no gateway holds a socket of this session")
        return {"gateway": holder, "session": session}
