"""Runs background loops so that no failure ends them: one item of a queue that fails does not stop the others.

Three kinds of failure: the store is away (wait, go on), an item fails in an unforeseen way (log, count, try it again
after a growing pause), and a loop itself does (the same for the loop).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from sync.core.errors import SyncError

BATCH = 100
"""Items that are claimed at once."""

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 300.0
"""The pause after the first failure, which doubles with each further one, and its maximum."""

FAILURES_KEPT = 10_000
"""Items whose failures are counted; with more, all counts begin anew."""

T = TypeVar("T")

_log = structlog.get_logger("sync.worker")


class Queue(Protocol[T]):
    """Where a loop takes its items from."""

    async def claim(self, count: int) -> Sequence[T]:
        """Claim up to `count` items that are due."""

    async def reschedule(self, item: T, pause_s: float) -> object:
        """End a claim whose work is not done: the item is due again in `pause_s`."""


def backoff_s(failures: int) -> float:
    """Return the pause after so many failures in a row (1 for the first)."""
    return float(min(BACKOFF_BASE_S * 2.0 ** min(failures, 32), BACKOFF_MAX_S))


def on_stop_signal(stop: Callable[[], object]) -> None:
    """Have the running event loop call `stop` on SIGINT, SIGTERM and SIGHUP; not on SIGHUP under `nohup`.

    A terminal sends SIGHUP when it is closed; its default action ends the process without a clean stop.
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

    def __init__(self, poll_s: float, away: type[SyncError]) -> None:
        """Look again after about `poll_s` where there is nothing to do; `away`: the error of a store that is away."""
        self.stopped = asyncio.Event()
        self._poll_s = poll_s
        self._away = away
        self._failures: dict[tuple[str, str], int] = {}

    def stop(self) -> None:
        """Let every loop end after the item at hand; what it has claimed besides is given back."""
        self.stopped.set()

    async def loop(
        self,
        name: str,
        queue: Queue[T],
        handle: Callable[[T], Awaitable[object]],
        id_of: Callable[[T], str],
        *,
        batch: int = BATCH,
        failed: Callable[[T, Exception], Awaitable[object]] | None = None,
        after: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Claim and handle the items of a queue until `stop`.

        Args:
            name: the queue's, for the log.
            queue: where items come from.
            handle: does an item's work and ends its claim.
            id_of: returns an item's id, for the log and for counting its failures.
            batch: items that are claimed at once.
            failed: ends the claim of an item whose handling failed in an unforeseen way; by default it is logged,
                counted and rescheduled.
            after: is called after each batch, for work that is done for several items at once.
        """

        async def step() -> bool:
            claimed = await queue.claim(batch)
            for item in claimed:
                if self.stopped.is_set():
                    await queue.reschedule(item, 0)
                elif failures := await self.isolate(name, id_of(item), handle, item, failed):
                    await queue.reschedule(item, backoff_s(failures))
            if after is not None:
                await after()
            return len(claimed) == batch

        await self.every(name, None, step)

    async def every(self, name: str, pause_s: float | None, run: Callable[[], Awaitable[bool | None]]) -> None:
        """Call `run` again and again until `stop`, `pause_s` apart (None: about `poll_s`).

        There is no pause where it returns True, which says that more is due.
        """
        failures = 0
        while not self.stopped.is_set():
            try:
                has_more = await run()
            except self._away as error:
                _log.warning("store_away", error=str(error))
                await self.pause()
                continue
            except Exception as error:
                failures += 1
                _log.error("loop_failed", loop=name, failures=failures, exc_info=error)
                await self.pause(backoff_s(failures))
                continue
            failures = 0
            if not has_more:
                await self.pause(pause_s)

    async def isolate(
        self,
        name: str,
        id: str,
        handle: Callable[[T], Awaitable[object]],
        item: T,
        failed: Callable[[T, Exception], Awaitable[object]] | None = None,
    ) -> int:
        """Handle one item. If that fails in an unforeseen way, call `failed`; without it the failure is logged.

        Returns:
            0, or how often in a row the item has failed by now, if it failed and there is no `failed`.

        Raises:
            SyncError: the store is away.
        """
        try:
            await handle(item)
        except self._away:
            raise
        except Exception as error:
            if failed is None:
                if len(self._failures) >= FAILURES_KEPT:
                    self._failures.clear()
                failures = self._failures[name, id] = self._failures.get((name, id), 0) + 1
                _log.error("item_failed", queue=name, item=id, failures=failures, exc_info=error)
                return failures
            await failed(item, error)
        self._failures.pop((name, id), None)
        return 0

    async def pause(self, seconds: float | None = None) -> None:
        """Wait for `seconds`, or until `stop`. Without `seconds`: about `poll_s`, at random, so that workers spread."""
        if seconds is None:
            seconds = self._poll_s * random.uniform(0.5, 1.5)  # noqa: S311 - guards nothing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
