"""Rejected webhooks: counted by provider and code in the store, so that every console shows them.

A flood of forged webhooks costs one dictionary entry and one write per second.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sync.http.endpoint import Handler
from sync.http.problem import FORESEEN, problem_of
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.models import StoreError
from sync.store.store import Store

KEEP_S = 7 * 86_400
CODES_MAX = 64
"""Maximum number of (provider, code) pairs that wait to be written."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Number of a provider's webhooks rejected with one code, and the first and last time (us since 1970)."""

    count: int
    first_us: int
    last_us: int
    detail: str


class RejectedWebhooks:
    """The rejected webhooks of this process that are not yet in the store, and those of all processes in the store.

    Attributes:
        counters: how many webhooks this process has received and rejected.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.keys.console("refused")
        self._new: dict[tuple[str, str], Rejected] = {}
        self._flushing = asyncio.Lock()
        self.counters = {"webhooks": 0, "webhook_refusals": 0}

    def note(self, provider: str, code: str, detail: str, now_us: int) -> None:
        """Count one rejected webhook."""
        self._add((provider, code), Rejected(1, now_us, now_us, detail))

    def _add(self, row: tuple[str, str], found: Rejected) -> None:
        if (known := self._new.get(row)) is not None:
            newer = found if found.last_us >= known.last_us else known
            first_us = min(known.first_us, found.first_us)
            self._new[row] = Rejected(known.count + found.count, first_us, newer.last_us, newer.detail)
        elif len(self._new) < CODES_MAX:
            self._new[row] = found

    def watched(self, provider: str, handler: Handler) -> Handler:
        """Wrap the handler of a provider's webhooks: count deliveries and record rejected ones."""

        async def answer(request: Request) -> Response:
            self.counters["webhooks"] += 1
            try:
                return await handler(request)
            except tuple(FORESEEN) as error:
                problem = problem_of(error)
                self.counters["webhook_refusals"] += 1
                self.note(provider, problem.code, problem.detail, time.time_ns() // 1000)
                raise

        return answer

    async def flush(self) -> None:
        """Return once all counts are written, also those that another call is writing.

        Raises:
            StoreError: the store is unreachable or failing; they are written later.
        """
        async with self._flushing:
            new, self._new = self._new, {}  # before the first await, because more may arrive meanwhile
            if not new:
                return
            pipeline = CommandPipeline(self._store)
            for (provider, code), found in new.items():
                row = f"{provider} {code}"
                pipeline.command("HINCRBY", self._key, f"{row} count", found.count)
                pipeline.command("HSETNX", self._key, f"{row} first_us", found.first_us)
                pipeline.command("HSET", self._key, f"{row} last_us", found.last_us, f"{row} detail", found.detail)
            pipeline.command("EXPIRE", self._key, KEEP_S)
            try:
                await pipeline.run()
            except StoreError:
                for key, found in new.items():
                    self._add(key, found)
                raise

    async def listed(self) -> list[dict[str, Any]]:
        """Return the rejected webhooks of the last days, the newest first.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await self.flush()
        (members,) = await run_commands(self._store, ("HGETALL", self._key))
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for member, value in members.items():
            provider, code, name = member.decode().split(" ")
            row = rows.setdefault((provider, code), {"provider": provider, "code": code})
            row[name] = value.decode() if name == "detail" else int(value)
        return sorted((row for row in rows.values() if "last_us" in row), key=lambda row: -int(row["last_us"]))
