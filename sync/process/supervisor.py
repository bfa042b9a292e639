"""Runs background loops so that a failure does not end a loop.

There are two kinds of failure. The store is unreachable: wait and continue. A loop fails unexpectedly: log it, and call
it again after a growing pause. `sync.store.isolation` handles the failures of single items.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

BATCH = 100
"""Items claimed at once."""

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 300.0
"""The pause after the first failure, and the maximum; it doubles with each further failure."""

T = TypeVar("T")

_log = structlog.get_logger("sync.worker")


class Queue(Protocol[T]):
    """The queue of a loop."""

    async def claim(self, count: int) -> Sequence[T]:
        """Claim up to `count` items that are due."""

    async def reschedule(self, item: T, pause_s: float) -> object:
        """End a claim with the work not done: the item is due again in `pause_s`."""


def is_failure(error: BaseException) -> bool:
    """Return whether an error is a failure of the work at hand; False if it ends the task that does the work.

    A library may raise SystemExit, or asyncio.CancelledError though nobody has cancelled this task.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not isinstance(error, KeyboardInterrupt | GeneratorExit)


def backoff_s(failures: int) -> float:
    """Return the pause after `failures` failures in a row (1 or more)."""
    return float(min(BACKOFF_BASE_S * 2.0 ** min(failures, 32), BACKOFF_MAX_S))


def on_stop_signal(stop: Callable[[], object]) -> None:
    """Make the running event loop call `stop` on SIGINT, SIGTERM and SIGHUP; under `nohup`, SIGHUP stays ignored.

    A closing terminal sends SIGHUP. Its default action would end the process without a clean stop.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, stop)


class Supervisor:
    """Loops that run until `stop`.

    Attributes:
        stopped: set by `stop`.
    """

    def __init__(
        self,
        poll_s: float,
        is_away: Callable[[BaseException], bool],
        count: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        """Supervise loops.

        Args:
            poll_s: mean pause in seconds of a loop that has nothing to do.
            is_away: returns whether an error means that the store is unreachable.
            count: counts a failure of the loop of that name.
        """
        self.stopped = asyncio.Event()
        self._poll_s = poll_s
        self._is_away = is_away
        self._count = count

    def stop(self) -> None:
        """End every loop after its current item; its other claimed items are given back."""
        self.stopped.set()

    async def loop(
        self,
        name: str,
        queue: Queue[T],
        work: Callable[[T], Awaitable[object]],
        *,
        batch: int = BATCH,
        pause_s: float | None = None,
        after: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Claim the items of a queue and work on them until `stop`.

        Args:
            name: the queue's name, for the log.
            queue: the source of items.
            work: does an item's work and ends its claim, also if the work fails.
            batch: maximum items per claim.
            pause_s: pause while no item is due; None: about `poll_s`.
            after: called after each batch, for work on several items at once.
        """

        async def step() -> bool:
            claimed = await queue.claim(batch)
            for item in claimed:
                if self.stopped.is_set():
                    await queue.reschedule(item, 0)
                else:
                    await work(item)
            if after is not None:
                await after()
            return len(claimed) == batch

        await self.every(name, pause_s, step)

    async def every(self, name: str, pause_s: float | None, run: Callable[[], Awaitable[bool | None]]) -> None:
        """Call `run` repeatedly until `stop`, with a pause of `pause_s` (None: about `poll_s`).

        There is no pause after a call that returns True: more work is due.
        """
        failures = 0
        while not self.stopped.is_set():
            try:
                has_more = await run()
            except BaseException as error:
                if not is_failure(error):
                    raise
                if self._is_away(error):
                    _log.warning("store_away", error=str(error))
                    await self.pause()
                    continue
                failures += 1
                _log.error("loop_failed", loop=name, failures=failures, exc_info=error)
                if self._count is not None:
                    await self._count(name)
                await self.pause(backoff_s(failures))
                continue
            failures = 0
            if not has_more:
                await self.pause(pause_s)

    async def pause(self, seconds: float | None = None) -> None:
        """Wait for `seconds` (None: about `poll_s`, with jitter, so that workers spread), or until `stop`."""
        if seconds is None:
            seconds = self._poll_s * random.uniform(0.5, 1.5)  # noqa: S311 - guards nothing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
