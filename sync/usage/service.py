"""Usage for the routes of one process: calls with their problems, and the announcements that are due later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from planwire_client.core.topic import tenant_of
from sync.http.problem import Problem
from sync.store.coalescer import Coalescer
from sync.store.models import StoreError
from sync.store.store import Store
from sync.usage.calls import Answer, Call, Rejected, UsageCalls

log = structlog.get_logger()

PUSHES_PER_ROUND = 200
RETRY_S = 0.5

REASONS = {
    "meter_unknown": "the catalog has no such meter: the tenant's usage lists all",
    "limit_unknown": "the tenant's published state does not say the limit: publish it, or let billing compute it",
    "key_reused": "the key or id was used for another call: give each call and each reservation its own",
    "reservation_unknown": "no such reservation of this meter",
    "reservations_full": "1,000 reservations are open: finalize or release them",
    "grants_full": "the meter has 200 grants of credits: wait until some have ended",
    "tenant_erased": "the tenant was erased: revive it to count again",
}


class Refreshed(NamedTuple):
    """A usage topic that is up to date.

    Attributes:
        version: its version; 0: there is nothing to show.
        changes_in_s: seconds until it changes by time alone; 0: it does not.
    """

    version: int
    changes_in_s: float


class UsageService:
    """Calls of one process. `run` is a task of the process."""

    def __init__(self, store: Store, calls: UsageCalls) -> None:
        self._calls = calls
        self.store = store
        self._durable = Coalescer[None, None](self._wait_durable)
        self._due: dict[str, float] = {}  # tenant -> when its usage topic is to be announced, monotonic seconds
        self._wake = asyncio.Event()

    async def call(self, call: Call) -> Answer:
        """Return what came of a call.

        Raises:
            Problem: it cannot be counted.
            StoreError: the store is unreachable or failing.
        """
        (found,) = await self.call_many([call])
        if isinstance(found, Answer):
            return found
        raise found

    async def call_many(self, calls: Sequence[Call]) -> list[Answer | Problem | StoreError]:
        """Return what came of each call, in order."""
        found: list[Answer | Problem | StoreError] = []
        for call, one in zip(calls, await self._calls.run(calls), strict=True):
            if isinstance(one, Rejected):
                found.append(Problem(one.code, REASONS[one.code]))
                continue
            if isinstance(one, Answer) and one.push_in_us:
                self._push_later(call.tenant, one.push_in_us / 1e6)
            found.append(one)
        return found

    async def wait_durable(self) -> None:
        """Return when all earlier calls are on disk, as `Store.wait_durable`; concurrent callers wait together.

        Raises:
            StoreError: it takes too long.
        """
        if self.store.durable:
            await self._durable.submit(None)

    async def _wait_durable(self, waiting: Sequence[None]) -> list[Exception | None]:
        await self.store.wait_durable()
        return [None] * len(waiting)

    async def refresh(self, topics: Sequence[str]) -> dict[str, Refreshed]:
        """Bring usage topics up to date, so that they can be read; return those that are."""
        found = {}
        calls = [Call(tenant_of(topic), "read") for topic in topics]
        failed = []
        for topic, one in zip(topics, await self.call_many(calls), strict=True):
            if isinstance(one, StoreError):
                failed.append(one)
            elif isinstance(one, Answer):
                found[topic] = Refreshed(one.usage_version, one.ends_us / 1e6)
        if failed:
            log.warning("usage_not_refreshed", topics=len(failed), error=str(failed[0]))
        return found

    async def restore(self, lost: Mapping[str, tuple[int, bytes]]) -> None:
        """Write back versions and states of usage topics that gateways show and the store has lost.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        calls = [
            Call(tenant_of(topic), "restore", amount=version, reason=state.decode())
            for topic, (version, state) in lost.items()
        ]
        for found in await self.call_many(calls):
            if isinstance(found, StoreError):
                raise found

    async def erase(self, environment: str, tenant: str) -> None:
        """Remove the usage of a tenant that is erased. Open pages see no state any more.

        Raises:
            StoreError: the store is unreachable or failing; a repeated call removes the rest.
        """
        (found,) = await self._calls.run([Call(tenant, "erase")])
        if isinstance(found, StoreError):
            raise found

    def _push_later(self, tenant: str, in_s: float) -> None:
        # The store says how long, not when: its clock may differ from this machine's.
        if tenant not in self._due:
            self._due[tenant] = time.monotonic() + in_s
            self._wake.set()

    async def run(self) -> None:
        """Bring usage topics up to date when they are due, until cancelled.

        If the process ends before, the next call, or the sweep of a gateway with readers, does it.
        """
        while True:
            self._wake.clear()
            now = time.monotonic()
            due = [tenant for tenant, at in self._due.items() if at <= now][:PUSHES_PER_ROUND]
            for tenant in due:
                del self._due[tenant]
            if due:
                reads = [Call(tenant, "read") for tenant in due]
                for tenant, one in zip(due, await self._calls.run(reads), strict=True):
                    if isinstance(one, StoreError):
                        log.warning("usage_not_announced", tenant=tenant, error=str(one))
                        self._push_later(tenant, RETRY_S)
                    elif isinstance(one, Answer) and one.push_in_us:
                        self._push_later(tenant, one.push_in_us / 1e6)
                continue
            try:
                async with asyncio.timeout(self._pause_s(now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _pause_s(self, now: float) -> float | None:
        return max(0.001, min(self._due.values()) - now) if self._due else None
