"""The running provider: one world, changed by one action at a time, saved to disk before an event is sent.

It connects the pure rules with the disk, the clock and the courier. The HTTP is in `app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import structlog

from sync.billing.catalog.catalog import Catalog
from sync.simulator import persistence
from sync.simulator.courier import PAUSE_FIRST_S, QUEUE_LIMIT, Courier, Delivery
from sync.simulator.scenarios import scenario
from sync.simulator.scenarios.torture import Report, torture
from sync.simulator.world import offers, rules
from sync.simulator.world.errors import ApiError, ControlError
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import Event, World
from sync.simulator.world.offers import Offers
from sync.simulator.world.turn import Outcome, Turn

FILE_NAME = "simulator.json"
TICK_S = 0.5
"""Time between two checks for due renewals, ends of trials and scheduled changes."""

Decision = Callable[[Turn], Outcome]
"""Applies an action to a working copy of the world."""

_log = structlog.get_logger("simulator")


class Provider:
    """The provider whose world is in `data_dir`. `catalog` is called for each action, so edits of the catalog count.

    Raises:
        UnusableFileError: the file in `data_dir` cannot be read, or was not written by `persistence.save`.
    """

    def __init__(
        self,
        data_dir: Path,
        catalog: Callable[[], Catalog],
        webhook_url: str,
        secrets: Mapping[str, Sequence[str]],
        now_us: Callable[[], int],
        random: Random,
        pause_first_s: float = PAUSE_FIRST_S,
    ) -> None:
        self._path = data_dir / FILE_NAME
        self.catalog = catalog
        self._secrets = secrets
        self.now_us = now_us
        self._lock = asyncio.Lock()
        # Its own thread: the loop's default threads may all be busy with callers that wait for this provider.
        self._disk = ThreadPoolExecutor(1, "simulator-disk")
        self._saved_owed: tuple[persistence.Owed, ...] = ()
        self.new_id = Mint(random)
        self.envs = tuple(secrets)
        self.world, owed = persistence.load(self._path)
        self.courier = Courier(webhook_url, secrets, now_us, self.new_id, random, pause_first_s)
        self.courier.restore(owed, self.world.events)

    async def play(self, name: str, seed: int) -> Report:
        """Play a bundled scenario against the webhook's receiver and return the report; this world is unchanged.

        Raises:
            ScenarioError: the catalog cannot serve it, or its environment has no signing secret.
        """
        what = scenario.load(name)
        secret = next(iter(self._secrets.get(what.env, ())), None)
        if secret is None:
            raise scenario.ScenarioError(name, f"there is no signing secret for {what.env}")
        return await torture(what, seed, self.courier.webhook_url, secret, self.catalog())

    def offers(self, env: str) -> Offers:
        """Return what the catalog sells in `env`."""
        return offers.of(self.catalog(), env)

    def offers_of_app(self, env: str, app: str = "", key: str = "") -> Offers:
        """Return what the catalog sells in `env` for one application; see `offers.of_app`.

        Raises:
            ControlError: there is no such application.
        """
        return offers.of_app(self.catalog(), env, app, key)

    async def change(self, decide: Decision, deliver: bool = True) -> tuple[Outcome, tuple[Delivery, ...]]:
        """Do an action, save the world, and send the events.

        Args:
            decide: the action.
            deliver: False if its events are not sent.

        Returns:
            The outcome, and the deliveries of its events.

        Raises:
            ApiError: the provider rejects the action.
            ControlError: too many deliveries wait, or the world could not be saved.
        """
        async with self._lock:
            outcome = decide(Turn(self.world, self.now_us(), self.new_id))
            return outcome, await self._commit(outcome.world, outcome.events if deliver else ())

    async def replay(self, event: Event) -> Delivery:
        """Deliver the event once more, under a new notification id."""
        async with self._lock:
            return (await self._commit(self.world, (event,)))[0]

    async def run(self) -> None:
        """Do due changes, and save the state of deliveries, until cancelled."""
        try:
            while True:
                await self.tick()
                await asyncio.sleep(TICK_S)
        finally:
            await self.flush()
            self._disk.shutdown()

    async def tick(self) -> None:
        """Do the due changes, one for each subscription."""
        for subscription_id in self.world.due(self.now_us()):
            try:
                await self.change(partial(_renew, subscription_id))
            except (ApiError, ControlError) as error:
                # It stays due, and the next tick tries again.
                _log.warning("not done though due", subscription_id=subscription_id, error=str(error))
        await self.flush()

    async def flush(self) -> None:
        """Write the file if the deliveries owed have changed since the last write."""
        if self.courier.owed() == self._saved_owed:
            return
        async with self._lock:
            try:
                await self._save(self.world)
            except ControlError as error:
                _log.warning("not kept", error=str(error))

    async def _commit(self, world: World, events: Sequence[Event]) -> tuple[Delivery, ...]:
        """Save `world` with the deliveries of `events`; then make it the current world and send the deliveries."""
        if len(self.courier) + len(events) > QUEUE_LIMIT:
            full = f"{QUEUE_LIMIT} events wait for delivery; is the webhook's receiver running?"
            raise ControlError(503, "queue_full", full)
        deliveries = self.courier.prepare(events)
        await self._save(world, deliveries)
        self.world = world
        self.courier.send(deliveries)
        return deliveries

    async def _save(self, world: World, coming: Sequence[Delivery] = ()) -> None:
        owed = self.courier.owed(coming)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._disk, persistence.save, self._path, world, owed)
        except OSError as error:
            reason = f"cannot write the simulator's file: {error.strerror or error}"
            raise ControlError(503, "disk", reason) from error
        self._saved_owed = owed


def _renew(subscription_id: str, turn: Turn) -> Outcome:
    return rules.renew(turn, turn.world.subscriptions[subscription_id])
