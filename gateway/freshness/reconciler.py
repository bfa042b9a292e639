"""Reads the store for the hub: after every subscription, and periodically to find announcements that were lost."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import islice

import structlog

from gateway.freshness.cpu_timer import CpuTimer
from gateway.freshness.requests import Requests
from gateway.freshness.usage_reads import TIMER_SLACK_S, UsageReads, UsageTopics
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from planwire_client.core.topic import tenant_of
from sync.store.models import Snapshot, StoreError
from sync.store.store import Store

log = structlog.get_logger()

BATCH = 500
"""Topics per round trip."""

SECOND_LOOK_S = 0.1
"""Seconds before an older stored version counts as data loss: a newer announcement may be under way."""

RETRY_S = 0.2

FOREIGN_LOG_S = 60.0
FOREIGN_HINT = "another installation announces on these channels: give each its own PLANWIRE_PREFIX or server"
"""Logged with an announcement or a revocation that is not in this store."""


class Reconciler:
    """The gateway's reader of the store. `run` and `run_periodic` are two tasks; the rest only requests reads."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        metrics: Metrics,
        interval_s: float,
        *,
        hold_s: float,
        hydrates: bool = False,
        usage: UsageTopics | None = None,
    ) -> None:
        """Compare every `interval_s`; give other gateways `hold_s` to restore versions that the store has lost.

        Args:
            hydrates: mark topics without state for the worker, which asks the source.
            usage: brings usage topics up to date before they are read; None: they are read as they are.
        """
        self._store = store
        self._hub = hub
        self._metrics = metrics
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._wanted: dict[str, dict[str, None]] = {}  # by shard
        self._reading: set[str] = set()
        self._comparing: set[str] = set()
        self._hydrates = hydrates
        self._requests = Requests(store, metrics, usage)
        self._usage = UsageReads(usage, interval_s, self._rolled)
        self._doubts: dict[str, float] = {}
        self._older: dict[str, float] = {}  # by topic: when to restore the newer version held here
        self._wake = asyncio.Event()
        self._foreign_logged_at = -FOREIGN_LOG_S

    def request_read(self, name: str) -> None:
        """Request a read of the topic. Requests before the read is sent share it."""
        self._wanted.setdefault(self._store.shard_of(name), {})[name] = None
        self._wake.set()

    def want_reconcile(self, name: str, held: int = 0) -> None:
        """Request a comparison of the topic with its provider: a browser waits for a version, or holds a lost one."""
        if tenant_of(name):
            self.request_read(name)  # no provider knows it
            return
        self._requests.reconcile(name, held)
        self._wake.set()

    def want_checkout(self, name: str, checkout: str) -> None:
        """Request that a checkout is read from the topic's provider: a browser has returned from it, and waits."""
        if tenant_of(name):
            return
        self._requests.checkout(name, checkout)
        self._wake.set()

    def want_usage(self, name: str, version: int, state: bytes) -> None:
        """Request that a usage topic is restored of what is held here: the store has lost it."""
        self._requests.restore_usage(name, version, state)
        self._wake.set()

    async def run(self) -> None:
        """Do the requested reads, in batches, until cancelled; failed reads are retried.

        Each shard is read by its own task, so that an unreachable shard delays only its own topics.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._requests.start():
                    group.create_task(self._requests.send())
                for shard in list(self._wanted):
                    if shard not in self._reading:
                        self._reading.add(shard)
                        group.create_task(self._read(shard))

    async def _read(self, shard: str) -> None:
        while names := self._next(shard):
            try:
                if self._hub.usage_count:
                    await self._usage.refresh(names)
                snapshots = await self._store.read_many(names)
            except StoreError as error:
                log.warning("read_failed", topics=len(names), error=str(error))
                self._wanted.setdefault(shard, {}).update(dict.fromkeys(names))
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                continue
            for snapshot in snapshots:
                await self._apply(snapshot)
            await self._requests.send_unhydrated()
        self._reading.discard(shard)

    def _next(self, shard: str) -> list[str]:
        """Take up to BATCH of the shard's wanted topics."""
        wanted = self._wanted.get(shard, {})
        names = list(islice(wanted, BATCH))
        for name in names:
            del wanted[name]
        if not wanted:
            self._wanted.pop(shard, None)
        return names

    async def _apply(self, snapshot: Snapshot) -> None:
        name = snapshot.topic
        doubted_at = self._doubts.get(name)
        is_final = not any(name in wanted for wanted in self._wanted.values())
        now = time.monotonic()
        may_reset = now - (now if doubted_at is None else doubted_at) >= self._hold_s
        if not self._hub.apply_snapshot(snapshot, is_final=is_final, may_reset=may_reset):
            await self._restore(snapshot)
            return
        self._older.pop(name, None)
        live = self._hub.topic(name)
        if self._hydrates and not snapshot.version and (live is None or live.tenant is None):
            self._requests.hydrate(name)
        if live is None or not live.verifying:
            self._doubts.pop(name, None)
        elif doubted_at is None:
            # A browser holds a newer version than the store. Another gateway may hold it too, and restores it
            # within one interval. If it is still missing then, it is lost.
            self._doubts[name] = now
            asyncio.get_running_loop().call_later(self._hold_s + TIMER_SLACK_S, self.request_read, name)

    def heard_foreign(self, kind: str, **about: object) -> None:
        """Count a message of another installation, and log it at most once per FOREIGN_LOG_S."""
        self._metrics.foreign += 1
        now = time.monotonic()
        if now - self._foreign_logged_at >= FOREIGN_LOG_S:
            self._foreign_logged_at = now
            log.error("foreign_message", kind=kind, heard=self._metrics.foreign, hint=FOREIGN_HINT, **about)

    async def _restore(self, stored: Snapshot) -> None:
        """Write this gateway's newer snapshot back into the store, if the store has lost it.

        Usually the store has not lost it: the announcement arrived before the answer to the read, and the write is
        rejected. If the store has an older version, it is read again a moment later. It may have been committed after
        the loss, with its announcement under way.
        """
        live = self._hub.topic(stored.topic)
        if live is None or live.version <= stored.version:
            self._older.pop(stored.topic, None)
            return
        is_unproven = live.version == live.unproven
        if stored.version or is_unproven:
            now = time.monotonic()
            due = self._older.get(stored.topic)
            if due is None:
                self._older[stored.topic] = now + SECOND_LOOK_S
                self.request_read(stored.topic)
                return
            if now < due:
                asyncio.get_running_loop().call_later(due - now + TIMER_SLACK_S, self.request_read, stored.topic)
                return
        if is_unproven:
            # The store never had the announced version. It is from another installation, of a build whose channel names
            # lack the database, and must not be written here.
            self._older.pop(stored.topic, None)
            self.heard_foreign("announcement", topic=stored.topic, announced=live.version, stored=stored.version)
            self._hub.retract(stored)
            return
        try:
            if live.tenant is not None:
                self.want_usage(live.name, live.version, live.state)
                return
            lost = Snapshot(live.name, live.version, live.state, b"", live.cause, owner=live.owner, erased=live.erased)
            if await self._store.restore(lost, over=stored.version):
                self._metrics.restored += 1
                log.error("store_regressed", topic=stored.topic, stored=stored.version, restored=live.version)
        except StoreError as error:
            log.warning("restore_failed", topic=stored.topic, error=str(error))
            # The snapshot may be restored without its mark, and then only a reconcile finds its private part missing.
            self.want_reconcile(stored.topic)
            await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        self.request_read(stored.topic)

    async def run_periodic(self) -> None:
        """Compare every live topic's version with the store's once per interval, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._round(group)

    async def _round(self, group: asyncio.TaskGroup) -> None:
        started = time.monotonic()
        names = [live.name for live in self._hub.topics.values()]
        batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
        # Only the round as a whole is jittered, so that no topic waits longer than one interval.
        round_s = self._interval_s * random.uniform(0.8, 1)  # noqa: S311 - jitter
        for index, batch in enumerate(batches):
            due_s = round_s * (index + 1) / (len(batches) + 1)
            await asyncio.sleep(max(0.0, due_s - (time.monotonic() - started)))
            shards = self._store.by_shard(batch)
            for shard, part in shards.items():
                if len(shards) == 1:
                    await self._compare_shard(shard, part)
                elif shard not in self._comparing:  # else its last comparison is still under way
                    group.create_task(self._compare_shard(shard, part))
        self._metrics.sweeps += 1
        await self._requests.send_unhydrated()
        if self._requests.are_waiting:
            self._wake.set()
        await asyncio.sleep(max(0.01, round_s - (time.monotonic() - started)))

    async def _compare_shard(self, shard: str, names: list[str]) -> None:
        self._comparing.add(shard)
        try:
            self._metrics.sweep_seconds += await CpuTimer(self._compare(names))
        finally:
            self._comparing.discard(shard)

    def _rolled(self, name: str) -> None:
        if self._hub.topic(name) is not None:
            self.request_read(name)

    async def _compare(self, names: list[str]) -> None:
        try:
            refreshed = await self._usage.refresh(names) if self._hub.usage_count else {}
            others = [name for name in names if name not in refreshed] if refreshed else names
            versions = dict(zip(others, await self._store.versions(others), strict=True)) if others else {}
        except StoreError as error:
            log.warning("sweep_failed", error=str(error))
            return
        self._metrics.sweep_topics += len(names)
        for name, version in (*refreshed.items(), *versions.items()):
            live = self._hub.topic(name)
            if live is not None and (version != live.version or not live.known):
                # Newer in the store: the bus lost it. Older: lost, or announced after this answer. The read decides.
                if version > live.version and live.known:
                    self._metrics.sweep_repairs += 1
                self.request_read(name)
