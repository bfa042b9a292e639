"""Webhooks that were refused at the door: counted by provider and code in the store, for every console to see.

Whoever sends forged ones by the thousand costs a dictionary entry, and one write a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sync.store.command_pipeline import run_commands
from sync.store.store import Store, StoreError

KEEP_S = 7 * 86_400
CODES_MAX = 64
BODY_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
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
        self._key = store.keys.console("refused")
        self._new: dict[tuple[str, str], Refusal] = {}
        self._telling = asyncio.Lock()
        self.deliveries = self.refused = 0

    def counters(self) -> dict[str, int]:
        """Return how many webhooks came to this process, and how many of them were refused."""
        return {"webhooks": self.deliveries, "webhook_refusals": self.refused}

    def note(self, provider: str, code: str, detail: str, now_us: int) -> None:
        """Count one."""
        self._add(provider, code, Refusal(1, now_us, now_us, detail))

    def _add(self, provider: str, code: str, found: Refusal) -> None:
        known = self._new.get((provider, code))
        if known is None:
            if len(self._new) < CODES_MAX:
                self._new[provider, code] = found
            return
        newer = found if found.last_us >= known.last_us else known
        first_us = min(known.first_us, found.first_us)
        self._new[provider, code] = Refusal(known.count + found.count, first_us, newer.last_us, newer.detail)

    async def flush(self) -> None:
        """Return once the store knows of all, also of those that another call is just telling it.

        Raises:
            StoreError: the store is unreachable or failing; they are told later.
        """
        async with self._telling:
            await self._tell()

    async def _tell(self) -> None:
        new, self._new = self._new, {}  # before anything is awaited: more may come meanwhile
        if not new:
            return
        commands: list[tuple[str | int | bytes, ...]] = [("EXPIRE", self._key, KEEP_S)]
        for (provider, code), found in new.items():
            row = f"{provider} {code}"
            commands += [
                ("HINCRBY", self._key, f"{row} count", found.count),
                ("HSETNX", self._key, f"{row} first_us", found.first_us),
                ("HSET", self._key, f"{row} last_us", found.last_us, f"{row} detail", found.detail),
            ]
        try:
            await run_commands(self._store, *commands[1:], commands[0])
        except StoreError:
            for (provider, code), found in new.items():
                self._add(provider, code, found)
            raise

    async def listed(self) -> list[dict[str, Any]]:
        """Return all refusals of the last days, the newest first.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await self.flush()
        return sorted(await self._read(), key=lambda row: -int(row["last_us"]))

    async def _read(self) -> list[dict[str, Any]]:
        (members,) = await run_commands(self._store, ("HGETALL", self._key))
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for member, value in members.items():
            provider, code, name = member.decode().split(" ")
            row = rows.setdefault((provider, code), {"provider": provider, "code": code})
            row[name] = value.decode() if name == "detail" else int(value)
        return [row for row in rows.values() if "last_us" in row]


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
