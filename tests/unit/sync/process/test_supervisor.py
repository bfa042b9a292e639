"""A supervised loop goes on whatever fails, and tries what failed again after a growing pause."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from sync.core.errors import SyncError
from sync.process import supervisor
from sync.process.supervisor import BACKOFF_MAX_S, Supervisor, backoff_s


class Away(SyncError):
    """The store is away."""


class Items:
    """A queue in memory; `ended` are the pauses after which claimed items are due again."""

    def __init__(self, *items: str) -> None:
        self.due = list(items)
        self.rescheduled: list[tuple[str, float]] = []
        self.problems: list[Exception] = []

    async def claim(self, count: int) -> Sequence[str]:
        if self.problems:
            raise self.problems.pop(0)
        claimed, self.due = self.due[:count], self.due[count:]
        return claimed

    async def reschedule(self, item: str, pause_s: float) -> None:
        self.rescheduled.append((item, pause_s))


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(supervisor, "BACKOFF_BASE_S", 0.001)
    return Supervisor(0.001, lambda error: isinstance(error, Away))


async def test_what_is_claimed_when_it_stops_is_given_back(loops: Supervisor) -> None:
    items = Items("a", "b", "c")

    async def handle(item: str) -> None:
        loops.stop()

    await loops.loop("timers", items, handle)
    assert items.rescheduled == [("b", 0), ("c", 0)]


@pytest.mark.parametrize("problem", [Away("gone"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")])
async def test_a_loop_that_fails_goes_on(loops: Supervisor, problem: Exception) -> None:
    items = Items("a")
    items.problems = [problem, problem]

    async def handle(item: str) -> None:
        loops.stop()

    with capture_logs() as logged:
        await loops.loop("timers", items, handle)
    event = "store_away" if isinstance(problem, Away) else "loop_failed"
    assert [line["event"] for line in logged] == [event, event]


async def test_a_failure_of_a_loop_is_counted_and_an_absent_store_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_BASE_S", 0.001)
    counted: list[str] = []

    async def count(name: str) -> None:
        counted.append(name)

    loops = Supervisor(0.001, lambda error: isinstance(error, Away), count)
    items = Items("a")
    items.problems = [Away("gone"), TypeError("damaged")]

    async def handle(item: str) -> None:
        loops.stop()

    await loops.loop("timers", items, handle)
    assert counted == ["timers"]


async def test_what_is_done_every_so_often_goes_on_after_a_failure(loops: Supervisor) -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            loops.stop()
        raise TypeError

    async with asyncio.timeout(5):
        await loops.every("catch-up", 60, run)
    assert runs == 3


async def test_a_loop_goes_on_after_a_cancellation_that_nobody_asked_for(loops: Supervisor) -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            loops.stop()
        raise asyncio.CancelledError if runs == 1 else SystemExit

    async with asyncio.timeout(5):
        await loops.every("catch-up", 0, run)
    assert runs == 2


async def test_a_loop_that_is_cancelled_ends(loops: Supervisor) -> None:
    begun = asyncio.Event()

    async def run() -> None:
        begun.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(loops.every("catch-up", 0, run))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_pause_doubles_up_to_a_maximum() -> None:
    assert backoff_s(3) == 4 * backoff_s(1)
    assert backoff_s(10**6) == BACKOFF_MAX_S
