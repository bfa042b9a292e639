"""Reads the store for the hub: after every subscription, and periodically to find announcements that were lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, TypeVar

import structlog

from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from planwire_client.core.topic import tenant_of
from sync.store.models import Snapshot, StoreError
from sync.store.store import Store

T = TypeVar("T")

log = structlog.get_logger()

BATCH = 500
"""Topics per round trip."""

SECOND_LOOK_S = 0.1
"""Seconds before an older stored version counts as data loss: a newer announcement may be under way."""

RETRY_S = 0.2

FOREIGN_LOG_S = 60.0
FOREIGN_HINT = "another installation announces on these channels: give each its own PLANWIRE_PREFIX or server"
"""Logged with an announcement or a revocation that is not in this store."""

TIMER_SLACK_S = 0.01
"""Added to one-shot timers, because event loops may fire a millisecond early."""


class UsageTopics(Protocol):
    """What the reconciler needs of usage; see `sync.usage.service`."""

    async def run(self) -> None:
        """Announce what is due, until cancelled."""

    async def refresh(self, topics: Sequence[str]) -> Mapping[str, tuple[int, float]]:
        """Bring usage topics up to date; return their versions, and the seconds until time alone changes them."""

    async def restore(self, lost: Mapping[str, tuple[int, bytes]]) -> None:
        """Write back versions and states of usage topics that the store has lost."""


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
        self._is_passing_on = False
        self._hydrates = hydrates
        self._unhydrated: dict[str, None] = {}
        self._reconciles: dict[str, int] = {}  # by topic: the newer version that a browser holds, or 0
        self._checkouts: dict[str, None] = {}
        self._usage = usage
        self._lost_usage: dict[str, tuple[int, bytes]] = {}
        self._rolling: set[str] = set()  # usage topics that are read once a window of theirs ends
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
        self._reconciles[name] = max(held, self._reconciles.get(name, 0))
        self._wake.set()

    def want_checkout(self, name: str, checkout: str) -> None:
        """Request that a checkout is read from the topic's provider: a browser has returned from it, and waits."""
        if tenant_of(name):
            return
        self._checkouts[f"{name} {checkout}"] = None
        self._wake.set()

    def want_usage(self, name: str, version: int, state: bytes) -> None:
        """Request that a usage topic is restored of what is held here: the store has lost it."""
        self._lost_usage.setdefault(name, (version, state))
        self._wake.set()

    async def run(self) -> None:
        """Do the requested reads, in batches, until cancelled; failed reads are retried.

        Each shard is read by its own task, so that an unreachable shard delays only its own topics.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if (self._reconciles or self._checkouts or self._lost_usage) and not self._is_passing_on:
                    self._is_passing_on = True
                    group.create_task(self._pass_on_reconciles())
                for shard in list(self._wanted):
                    if shard not in self._reading:
                        self._reading.add(shard)
                        group.create_task(self._read(shard))

    async def _read(self, shard: str) -> None:
        while names := self._next(shard):
            try:
                await self._refresh_usage(names)
                snapshots = await self._store.read_many(names)
            except StoreError as error:
                log.warning("read_failed", topics=len(names), error=str(error))
                self._wanted.setdefault(shard, {}).update(dict.fromkeys(names))
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                continue
            for snapshot in snapshots:
                await self._apply(snapshot)
            await self._pass_on_unhydrated()
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
            self._unhydrated[name] = None
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

    async def _pass_on_reconciles(self) -> None:
        if self._reconciles:
            await self._pass_on(self._reconciles, self._store.want_reconcile, "reconcile_unasked")
        if self._checkouts:
            want = partial(self._store.request, self._store.keys.checkouts)
            await self._pass_on(self._checkouts, want, "checkout_unasked")
        if self._lost_usage and self._usage is not None:
            self._metrics.restored += await self._pass_on(self._lost_usage, self._usage.restore, "usage_not_restored")
        self._is_passing_on = False

    async def _pass_on_unhydrated(self) -> None:
        """Request that the worker asks the source about topics that have no state."""
        if self._unhydrated:
            want = partial(self._store.request, self._store.keys.hydrate)
            self._metrics.unhydrated += await self._pass_on(self._unhydrated, want, "hydration_unasked")

    async def _pass_on(
        self, topics: dict[str, T], want: Callable[[dict[str, T]], Awaitable[object]], event: str
    ) -> int:
        """Send `topics` to the worker and return their number. If that fails, keep them for the next round.

        They must be kept: a loss is noticed only once, and a topic without state is not read again by itself.
        """
        taken = dict(topics)
        topics.clear()
        try:
            await want(taken)
        except StoreError as error:
            log.warning(event, topics=len(taken), error=str(error))
            topics |= taken
            return 0
        return len(taken)

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
        await self._pass_on_unhydrated()
        if self._reconciles or self._checkouts or self._lost_usage:
            self._wake.set()
        await asyncio.sleep(max(0.01, round_s - (time.monotonic() - started)))

    async def _compare_shard(self, shard: str, names: list[str]) -> None:
        self._comparing.add(shard)
        try:
            self._metrics.sweep_seconds += await CpuTimer(self._compare(names))
        finally:
            self._comparing.discard(shard)

    async def _refresh_usage(self, names: list[str]) -> dict[str, int]:
        """Bring the usage topics among `names` up to date, and return their versions by name.

        A window that ends before the next sweep is shown in time: its topic is read once more then.
        """
        if self._usage is None or not self._hub.usage_count:
            return {}
        usage = [name for name in names if tenant_of(name)]
        found = await self._usage.refresh(usage) if usage else {}
        for name, (_, changes_in_s) in found.items():
            if 0 < changes_in_s <= self._interval_s and name not in self._rolling:
                self._rolling.add(name)
                asyncio.get_running_loop().call_later(changes_in_s + TIMER_SLACK_S, self._rolled, name)
        return {name: version for name, (version, _) in found.items()}

    def _rolled(self, name: str) -> None:
        self._rolling.discard(name)
        if self._hub.topic(name) is not None:
            self.request_read(name)

    async def _compare(self, names: list[str]) -> None:
        try:
            refreshed = await self._refresh_usage(names)
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


class CpuTimer(Generator[Any, Any, float]):
    """`await CpuTimer(coroutine)` runs the coroutine and returns its CPU seconds; the coroutine's result is dropped.

    Time in which it waits is not counted.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._seconds = 0.0

    def __await__(self) -> Generator[Any, Any, float]:
        """Return the steps, each measured."""
        return self

    def send(self, value: Any) -> Any:
        """Run the coroutine to its next wait."""
        return self._step(self._coroutine.send, value)

    def throw(self, error: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """Raise an error where the coroutine waits, and run it to its next wait. Cancellation uses this."""
        return self._step(self._coroutine.throw, error)

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def _step(self, advance: Callable[[Any], Any], argument: Any) -> Any:
        began = time.thread_time()
        try:
            return advance(argument)
        except StopIteration:
            raise StopIteration(self._seconds + time.thread_time() - began) from None
        finally:
            self._seconds += time.thread_time() - began
