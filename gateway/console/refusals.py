"""Webhooks that were refused at the door: counted by provider and code in the store, for every console to see.

Whoever sends forged ones by the thousand costs a dictionary entry, and one write a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.console import lease
from sync.state.store import Store

KEY = "pw:{console}:refusals"
KEEP_S = 7 * 86_400
CODES_MAX = 64
BODY_MAX_BYTES = 4096


@dataclass(slots=True)
class Refusal:
    """How often, and when first and last (microseconds since 1970), a provider's webhooks were refused so."""

    count: int
    first_us: int
    last_us: int
    detail: str


class Refusals:
    """The refusals of one process that the store has not been told of, and those that it has, of all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._new: dict[tuple[str, str], Refusal] = {}
        self.deliveries = self.refused = 0

    def counters(self) -> dict[str, int]:
        """Return how many webhooks came to this process, and how many of them were refused."""
        return {"webhooks": self.deliveries, "webhook_refusals": self.refused}

    def note(self, provider: str, code: str, detail: str, now_us: int) -> None:
        """Count one."""
        known = self._new.get((provider, code))
        if known is None:
            if len(self._new) < CODES_MAX:
                self._new[provider, code] = Refusal(1, now_us, now_us, detail)
            return
        known.count, known.last_us, known.detail = known.count + 1, now_us, detail

    async def flush(self) -> None:
        """Return once the store knows of all.

        Raises:
            StoreError: the store is unreachable or failing; they are told later.
        """
        if not self._new:
            return
        stored = {(row["provider"], row["code"]): row for row in await self._read()}
        new, self._new = self._new, {}
        rows = []
        for (provider, code), found in new.items():
            old = stored.get((provider, code))
            row = {
                "provider": provider,
                "code": code,
                "count": found.count + (old["count"] if old else 0),
                "first_us": old["first_us"] if old else found.first_us,
                "last_us": found.last_us,
                "detail": found.detail,
            }
            rows += [f"{provider} {code}", orjson.dumps(row)]
        await lease.run(self._store, ("HSET", KEY, *rows), ("EXPIRE", KEY, KEEP_S))

    async def listed(self) -> list[dict[str, Any]]:
        """Return all refusals of the last days, the newest first.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await self.flush()
        return sorted(await self._read(), key=lambda row: -int(row["last_us"]))

    async def _read(self) -> list[dict[str, Any]]:
        (values,) = await lease.run(self._store, ("HVALS", KEY))
        return [orjson.loads(value) for value in values]


class Watched:
    """An intake door whose refusals are noted."""

    def __init__(self, door: ASGIApp, provider: str, refusals: Refusals) -> None:
        self._door = door
        self._provider = provider
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one delivery."""
        status = 200
        self._refusals.deliveries += 1

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._refusals.refused += status >= 400
            elif status >= 400 and message["type"] == "http.response.body":
                self._note(message.get("body", b"")[:BODY_MAX_BYTES])
            await send(message)

        await self._door(scope, receive, watched)

    def _note(self, body: bytes) -> None:
        try:
            problem = orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        if isinstance(problem, Mapping) and isinstance(problem.get("code"), str):
            self._refusals.note(self._provider, problem["code"], str(problem.get("detail", "")), time.time_ns() // 1000)
