"""Reads the store for the hub: after every subscription, and on a timer for whatever the bus has lost."""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from gateway.hub import Hub
from gateway.meter import Metered
from gateway.metrics import Metrics
from sync.state.store import Snapshot, Store, StoreError

log = structlog.get_logger()

BATCH = 500
"""Topics per round trip."""

RETRY_S = 0.2

TIMER_SLACK_S = 0.01
"""Event loops may fire a timer a millisecond early; nobody would ask again."""


class Sweep:
    """The gateway's reader of the store. `ask` is called from anywhere; `run` and `patrol` are two tasks."""

    def __init__(self, store: Store, metrics: Metrics, interval_s: float, *, hold_s: float) -> None:
        """Sweep every `interval_s`; leave other gateways `hold_s` to put back what the store has lost."""
        self.hub: Hub
        self._store = store
        self._metrics = metrics
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._wanted: dict[str, None] = {}
        self._reconciles: dict[str, None] = {}
        self._doubts: dict[str, float] = {}
        self._wake = asyncio.Event()

    def ask(self, name: str) -> None:
        """Have the topic read soon; asking twice before it is read reads it once, after both."""
        self._wanted[name] = None
        self._wake.set()

    def want_reconcile(self, name: str) -> None:
        """Have the topic compared with its provider soon: a browser awaits what has not come, or held what is lost."""
        self._reconciles[name] = None
        self._wake.set()

    async def run(self) -> None:
        """Read what is asked for, in batches, until cancelled. What fails is asked for again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._pass_on_reconciles()
            while self._wanted:
                names = [name for name, _ in zip(self._wanted, range(BATCH), strict=False)]
                for name in names:
                    del self._wanted[name]
                try:
                    snapshots = await self._store.read_many(names)
                except StoreError as error:
                    log.warning("read_failed", topics=len(names), error=str(error))
                    self._wanted.update(dict.fromkeys(names))
                    await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                    continue
                for snapshot in snapshots:
                    await self._take(snapshot)

    async def _take(self, snapshot: Snapshot) -> None:
        name = snapshot.topic
        doubted_at = self._doubts.get(name)
        now = time.monotonic()
        may_reset = now - (now if doubted_at is None else doubted_at) >= self._hold_s
        if not self.hub.install(snapshot, is_final=name not in self._wanted, may_reset=may_reset):
            await self._put_back(snapshot)
            return
        live = self.hub.topic(name)
        if live is None or not live.doubted:
            self._doubts.pop(name, None)
        elif doubted_at is None:
            # A browser holds more than the store. Another gateway may do so too, and puts it back within one sweep:
            # only what is still missing after that is lost.
            self._doubts[name] = now
            asyncio.get_running_loop().call_later(self._hold_s + TIMER_SLACK_S, self.ask, name)

    async def _pass_on_reconciles(self) -> None:
        if not self._reconciles:
            return
        names, self._reconciles = list(self._reconciles), {}
        try:
            await self._store.want_reconcile(names)
        except StoreError as error:
            # A hint: the browser is told `expired` and may ask again.
            log.warning("reconcile_unasked", topics=len(names), error=str(error))

    async def _put_back(self, stored: Snapshot) -> None:
        """Give the store back the newer snapshot that this gateway still holds, if it has lost it.

        Usually it has not: the announcement was quicker than the answer to the read, and the store says so.
        """
        live = self.hub.topic(stored.topic)
        if live is None or live.version <= stored.version:
            return
        try:
            if await self._store.restore(Snapshot(live.name, live.version, live.state, b"", live.cause)):
                self._metrics.restored += 1
                log.error("store_regressed", topic=stored.topic, stored=stored.version, restored=live.version)
        except StoreError as error:
            log.warning("restore_failed", topic=stored.topic, error=str(error))
            await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        self.ask(stored.topic)

    async def patrol(self) -> None:
        """Compare every live topic's version with the store's once per interval, until cancelled."""
        while True:
            started = time.monotonic()
            names = self.hub.live_names()
            batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
            # The whole round is jittered, its parts are even: so no topic waits longer than one interval.
            round_s = self._interval_s * random.uniform(0.8, 1)  # noqa: S311 - jitter
            for index, batch in enumerate(batches):
                due_s = round_s * (index + 1) / (len(batches) + 1)
                await asyncio.sleep(max(0.0, due_s - (time.monotonic() - started)))
                self._metrics.sweep_seconds += await Metered(self._compare(batch))
            self._metrics.sweeps += 1
            await asyncio.sleep(max(0.01, round_s - (time.monotonic() - started)))

    async def _compare(self, names: list[str]) -> None:
        try:
            versions = await self._store.versions(names)
        except StoreError as error:
            log.warning("sweep_failed", error=str(error))
            return
        self._metrics.sweep_topics += len(names)
        for name, version in zip(names, versions, strict=True):
            live = self.hub.topic(name)
            if live is not None and (version != live.version or not live.known):
                # Newer: the bus lost it. Older, or the announcement was quicker than this answer: reading will tell.
                if version > live.version and live.known:
                    self._metrics.sweep_repairs += 1
                self.ask(name)
