"""The running provider: one world, changed one action at a time, on disk before anything is told.

Joins the pure rules with the disk, the clock and the courier; knows no HTTP of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import structlog

from sync.core.errors import SyncError
from sync.simulator import persistence
from sync.simulator.courier import PAUSE_FIRST_S, QUEUE_LIMIT, Courier, Delivery
from sync.simulator.scenarios import scenario, scenario_file
from sync.simulator.world import offers, rules
from sync.simulator.world.errors import ApiError
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import Event, World
from sync.simulator.world.offers import CatalogLike, Offers
from sync.simulator.world.turn import NewId, Outcome

FILE_NAME = "simulator.json"
TICK_S = 0.5
"""How often it is looked whether a renewal, a trial's end or a scheduled change is due."""

Decision = Callable[[World, int, NewId], Outcome]
"""What an action does to the world, given the instant and a source of ids."""

_log = structlog.get_logger("simulator")


class QueueFullError(SyncError):
    """More events wait for delivery than the courier holds; nothing was changed."""

    def __str__(self) -> str:
        return f"{QUEUE_LIMIT} events wait for delivery; is the webhook's receiver running?"


class DiskError(SyncError):
    """The world could not be written; nothing was changed. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot write the simulator's file: {self.reason}"


class Provider:
    """The world of `data_dir`. `catalog` is called for each action, so that an edit of the catalog is seen.

    Raises:
        UnusableFileError: the file in `data_dir` is not one of ours.
    """

    def __init__(
        self,
        data_dir: Path,
        catalog: Callable[[], CatalogLike],
        webhook_url: str,
        secrets: Mapping[str, Sequence[str]],
        now_us: Callable[[], int],
        random: Random,
        pause_first_s: float = PAUSE_FIRST_S,
    ) -> None:
        self._path = data_dir / FILE_NAME
        self._catalog = catalog
        self._webhook_url = webhook_url
        self._secrets = secrets
        self._now_us = now_us
        self._lock = asyncio.Lock()
        # A thread of its own: the loop's shared ones may all be taken by callers who wait for this provider.
        self._disk = ThreadPoolExecutor(1, "simulator-disk")
        self._saved_owed: tuple[persistence.Owed, ...] = ()
        self.new_id = Mint(random)
        self.envs = tuple(secrets)
        self.world, owed = persistence.load(self._path)
        self.courier = Courier(webhook_url, secrets, now_us, self.new_id, random, pause_first_s)
        self.courier.restore(owed, self.world.events)

    def now_us(self) -> int:
        """The provider's clock."""
        return self._now_us()

    async def play(self, name: str, seed: int) -> scenario.Report:
        """The report of a bundled scenario, sent to where webhooks go; this world stays as it is.

        Raises:
            scenario_file.ScenarioError: the catalog cannot serve it, or its environment has no signing secret.
        """
        what = scenario_file.load(name)
        secret = next(iter(self._secrets.get(what.env, ())), None)
        if secret is None:
            raise scenario_file.ScenarioError(name, f"there is no signing secret for {what.env}")
        return await scenario.torture(what, seed, self._webhook_url, secret, self._catalog(), None, None)

    def offers(self, env: str) -> Offers:
        """What the catalog sells in `env`."""
        return offers.of(self._catalog(), env)

    async def change(self, decide: Decision, deliver: bool = True) -> tuple[Outcome, tuple[Delivery, ...]]:
        """The outcome of an action, once it is on disk, and the deliveries it caused; none unless `deliver`.

        Raises:
            ApiError: the provider does not do it.
            QueueFullError: too much waits for delivery.
            DiskError: it could not be kept.
        """
        async with self._lock:
            outcome = decide(self.world, self._now_us(), self.new_id)
            if deliver and len(self.courier) + len(outcome.events) > QUEUE_LIMIT:
                raise QueueFullError
            deliveries = self.courier.prepare(outcome.events) if deliver else ()
            await self._save(outcome.world, deliveries)
            self.world = outcome.world
            self.courier.send(deliveries)
            return outcome, deliveries

    async def replay(self, event: Event) -> Delivery:
        """The event delivered once more, under a new notification id."""
        async with self._lock:
            if len(self.courier) >= QUEUE_LIMIT:
                raise QueueFullError
            deliveries = self.courier.prepare((event,))
            await self._save(self.world, deliveries)
            self.courier.send(deliveries)
            return deliveries[0]

    async def run(self) -> None:
        """Do what falls due, and keep the file true to what was delivered, until cancelled."""
        try:
            while True:
                await self.tick()
                await asyncio.sleep(TICK_S)
        finally:
            await self.flush()
            self._disk.shutdown()

    async def tick(self) -> None:
        """Do what is due now, once for each subscription."""
        for subscription_id in rules.due(self.world, self._now_us()):
            try:
                await self.change(partial(_renew, subscription_id))
            except (ApiError, QueueFullError, DiskError) as error:
                # It stays due and is tried again at the next tick.
                _log.warning("not done though due", subscription_id=subscription_id, error=str(error))
        await self.flush()

    async def flush(self) -> None:
        """Write the file where deliveries have been made since it was written."""
        if self.courier.owed() == self._saved_owed:
            return
        async with self._lock:
            try:
                await self._save(self.world)
            except DiskError as error:
                _log.warning("not kept", error=str(error))

    async def _save(self, world: World, coming: Sequence[Delivery] = ()) -> None:
        owed = self.courier.owed(coming)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._disk, persistence.save, self._path, world, owed)
        except OSError as error:
            raise DiskError(error.strerror or str(error)) from error
        self._saved_owed = owed


def _renew(subscription_id: str, world: World, now_us: int, new_id: NewId) -> Outcome:
    return rules.renew(world, subscription_id, now_us, new_id)
