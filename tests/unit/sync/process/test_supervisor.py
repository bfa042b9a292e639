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
    return Supervisor(0.001, Away)


async def test_one_item_that_fails_does_not_stop_the_others(loops: Supervisor) -> None:
    items, handled = Items("bad", "a", "b"), list[str]()

    async def handle(item: str) -> None:
        if item == "bad":
            raise KeyError("event_id")
        handled.append(item)
        if item == "b":
            loops.stop()

    with capture_logs() as logged:
        await loops.loop("timers", items, handle, str)
    assert handled == ["a", "b"]
    assert items.rescheduled == [("bad", backoff_s(1))]
    (line,) = logged
    assert (line["event"], line["queue"], line["item"], line["failures"]) == ("item_failed", "timers", "bad", 1)


async def test_the_pause_grows_until_an_item_succeeds(loops: Supervisor) -> None:
    items, tries = Items(), 0

    async def handle(item: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            loops.stop()
        elif tries != 3:
            raise ValueError

    async def again(item: str, pause_s: float) -> None:
        items.rescheduled.append((item, pause_s))
        items.due.append(item)

    items.due, items.reschedule = ["a"], again  # type: ignore[method-assign]

    async def succeeded() -> None:
        if tries == 3:
            items.due = ["a"]

    await loops.loop("timers", items, handle, str, after=succeeded)
    assert [pause_s for _, pause_s in items.rescheduled] == [backoff_s(1), backoff_s(2), backoff_s(1)]
    assert backoff_s(10**6) == BACKOFF_MAX_S


async def test_who_knows_better_ends_the_claim_of_what_failed(loops: Supervisor) -> None:
    items, failed = Items("bad"), list[tuple[str, str]]()

    async def handle(item: str) -> None:
        raise KeyError(item)

    async def park(item: str, error: Exception) -> None:
        failed.append((item, repr(error)))
        loops.stop()

    await loops.loop("inbox", items, handle, str, failed=park)
    assert failed == [("bad", "KeyError('bad')")]
    assert items.rescheduled == []


async def test_what_is_claimed_when_it_stops_is_given_back(loops: Supervisor) -> None:
    items = Items("a", "b", "c")

    async def handle(item: str) -> None:
        loops.stop()

    await loops.loop("timers", items, handle, str)
    assert items.rescheduled == [("b", 0), ("c", 0)]


@pytest.mark.parametrize("problem", [Away("gone"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")])
async def test_a_loop_that_fails_goes_on(loops: Supervisor, problem: Exception) -> None:
    items = Items("a")
    items.problems = [problem, problem]

    async def handle(item: str) -> None:
        loops.stop()

    with capture_logs() as logged:
        await loops.loop("timers", items, handle, str)
    event = "store_away" if isinstance(problem, Away) else "loop_failed"
    assert [line["event"] for line in logged] == [event, event]


async def test_a_store_that_goes_away_under_an_item_leaves_it_to_its_lease(loops: Supervisor) -> None:
    items, tried = Items("a", "b"), list[str]()

    async def handle(item: str) -> None:
        tried.append(item)
        loops.stop()
        raise Away

    await loops.loop("timers", items, handle, str)
    assert (tried, items.rescheduled) == (["a"], [])


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


async def test_items_beyond_number_are_not_remembered(loops: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FAILURES_KEPT", 3)

    async def handle(item: str) -> None:
        raise ValueError

    for number in range(10):
        await loops.isolate("catalog", str(number), handle, "x")
    assert len(loops._failures) <= 3
