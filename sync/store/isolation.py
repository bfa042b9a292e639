"""Work on the items of queues so that whatever an item raises concerns that item only.

An item that fails is logged with its id, counted, retried after a growing pause, and parked after ATTEMPTS_MAX
attempts. The queue counts the attempts in the store when they begin: an item that ends its process is parked too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from sync.core.errors import SyncError
from sync.process.supervisor import Queue, backoff_s, is_failure
from sync.store import counters
from sync.store.command_pipeline import Connection, run_commands
from sync.store.models import StoreError, StoreRejected

ATTEMPTS_MAX = 8
"""Maximum attempts at an item that fails, within about two minutes; then it is parked."""

AWAY_PAUSE_S = 5.0
"""Pause of an item that the store cannot serve, while the store serves the item's queue."""

_log = structlog.get_logger("sync.worker")


class Item(Protocol):
    """A claimed item."""

    @property
    def id(self) -> str:
        """For logs."""

    @property
    def tries(self) -> int:
        """Attempts since the item's work was last done, with the current one; 0 before `begin`."""


T = TypeVar("T")
ItemT = TypeVar("ItemT", bound=Item)


class WorkQueue(Queue[ItemT], Protocol[ItemT]):
    """A queue whose items fail and are parked. Nothing is changed for an item whose claim was lost."""

    async def begin(self, item: ItemT) -> ItemT | None:
        """Count an attempt and renew the claim; return the item to work on, or None if there is nothing to do."""

    async def fail(self, item: ItemT, pause_s: float) -> object:
        """End a claim whose attempt has failed: the item is due again in `pause_s`."""

    async def park(self, item: ItemT, reason: str) -> object:
        """End a claim by taking the item out of the queue."""


class UnendedError(SyncError):
    """No attempt at an item has ended: each stopped its process, or took longer than its lease."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What some work raised."""

    error: BaseException


async def failure_of(work: Awaitable[T]) -> T | Failure:
    """Return the result of `work`, or what it raised, unless that ends this task."""
    try:
        return await work
    except BaseException as error:
        if not is_failure(error):
            raise
        return Failure(error)


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the store is unreachable or failing, and not that it rejects one item."""
    return isinstance(error, StoreError) and not isinstance(error, StoreRejected)


async def each_of(works: Iterable[Awaitable[T]]) -> list[T]:
    """Do every work, one after the other, whatever the others raise. Return the results, or raise the first failure."""
    done = [await failure_of(work) for work in works]
    for result in done:
        if isinstance(result, Failure):
            raise result.error
    return [result for result in done if not isinstance(result, Failure)]


def described(error: BaseException, text: Callable[[object], str] = repr) -> str:
    """Return an error as text, even if it has no usable `repr` (or `text`)."""
    try:
        return text(error)
    except Exception:
        return type(error).__name__


class Isolation:
    """Isolates the items of one store's queues from each other."""

    def __init__(self, store: Connection) -> None:
        self._store = store

    async def work(
        self, name: str, queue: WorkQueue[ItemT], handle: Callable[[ItemT], Awaitable[object]], item: ItemT
    ) -> None:
        """Do the work on one claimed item. Whatever it raises ends this attempt only.

        Args:
            name: the queue's name, for logs and the metric.
            queue: the item's queue.
            handle: does the work and ends the claim.
            item: the item.

        Raises:
            StoreError: the store is unreachable; the item is due again when its lease ends.
        """
        begun = await failure_of(queue.begin(item))
        if isinstance(begun, Failure):
            await self.failed(name, queue, item, begun.error)
        elif begun is not None:
            await self.attempt(name, queue, handle, begun)

    async def attempt(
        self, name: str, queue: WorkQueue[ItemT], handle: Callable[[ItemT], Awaitable[object]], begun: ItemT
    ) -> None:
        """Do the work on an item whose attempt has begun, like `work`."""
        if begun.tries > ATTEMPTS_MAX:
            reason = f"none of {ATTEMPTS_MAX} attempts ended: each stopped its process or was too slow"
            await self.failed(name, queue, begun, UnendedError(reason))
            return
        done = await failure_of(handle(begun))
        if isinstance(done, Failure):
            await self.failed(name, queue, begun, done.error)

    async def failed(self, name: str, queue: WorkQueue[ItemT], item: ItemT, error: BaseException) -> None:
        """End an attempt that has raised `error`: retry the item after a pause, or park it.

        Raises:
            StoreError: the store is unreachable; the item is due again when its lease ends.
        """
        about = {"queue": name, "item": item.id, "attempts": item.tries}
        try:
            if is_away(error):
                # If this works, the store serves the queue: on a Cluster, another server has the item's keys.
                await queue.reschedule(item, AWAY_PAUSE_S)
                _log.warning("item_waits", **about, error=str(error))
                return
            is_last = item.tries >= ATTEMPTS_MAX
            _log.error("item_parked" if is_last else "item_failed", **about, exc_info=error)
            await self.count(name)
            if is_last:
                await queue.park(item, f"failed {item.tries} times: {described(error)}")
            else:
                await queue.fail(item, backoff_s(max(1, item.tries)))
        except StoreRejected as rejection:  # the item's record cannot be used; its lease ends by itself
            _log.error("item_not_ended", **about, error=str(rejection))

    async def count(self, name: str) -> None:
        """Count a failed attempt at an item of the queue `name`, or a failure of the loop `name`."""
        field = counters.field("item_failures", queue=name)
        with contextlib.suppress(StoreError):
            await run_commands(self._store, ("HINCRBY", self._store.keys.counters, field, 1))
