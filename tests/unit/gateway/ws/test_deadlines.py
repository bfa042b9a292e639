"""Nothing comes due early, nothing more than a tick late, and what was discarded never."""

from __future__ import annotations

from hypothesis import given, strategies as st

from gateway.ws.deadlines import Deadlines

TICK_S = 0.25
QUARTERS = st.integers(0, 400).map(lambda quarters: quarters / 16)


@given(
    items=st.lists(st.tuples(QUARTERS, QUARTERS, st.booleans()), max_size=12),
    start=QUARTERS,
)
def test_everything_comes_due_once_on_time_unless_discarded(
    items: list[tuple[float, float, bool]], start: float
) -> None:
    """Items are added while time passes, some for an instant already past; the clock ticks on its own grid."""
    deadlines: Deadlines[int] = Deadlines(TICK_S)
    pending = sorted((added, number, at, keep) for number, (added, at, keep) in enumerate(items))
    wanted: dict[int, float] = {}
    now = start
    while now < start + 30:
        while pending and pending[0][0] <= now:
            _, number, at, keep = pending.pop(0)
            bucket = deadlines.add(at, number)
            if keep:
                wanted[number] = max(at, now)
            else:
                deadlines.discard(bucket, number)
        due = deadlines.due(now)
        assert len(set(due)) == len(due)
        for number in due:
            at = wanted.pop(number)
            assert at <= now
            assert now < at + 2 * TICK_S
        now += TICK_S
    assert not [number for number, at in wanted.items() if at + 2 * TICK_S <= now]


def test_what_is_due_by_now_is_returned_earliest_first() -> None:
    deadlines: Deadlines[str] = Deadlines(TICK_S)
    deadlines.add(3.0, "c")
    deadlines.add(1.0, "a")
    deadlines.add(2.0, "b")
    assert deadlines.due(0.99) == []
    assert deadlines.due(2.0) == ["a", "b"]
    assert len(deadlines) == 1
    assert deadlines.due(10.0) == ["c"]
    assert len(deadlines) == 0


def test_a_deadline_in_the_past_comes_due_on_the_next_tick_not_the_same() -> None:
    """Whoever adds again from within what is due must not spin."""
    deadlines: Deadlines[str] = Deadlines(TICK_S)
    deadlines.due(10.0)
    bucket = deadlines.add(1.0, "late")
    assert deadlines.due(10.0) == []
    assert deadlines.due(10.25) == ["late"]
    deadlines.discard(bucket, "late")


def test_a_discarded_item_leaves_nothing_behind() -> None:
    deadlines: Deadlines[str] = Deadlines(TICK_S)
    bucket = deadlines.add(1.0, "a")
    other = deadlines.add(1.0, "b")
    assert bucket == other
    deadlines.discard(bucket, "a")
    deadlines.discard(bucket, "a")
    deadlines.discard(bucket + 1, "b")
    assert deadlines.due(5.0) == ["b"]
    assert deadlines._buckets == {}


def test_a_clock_that_runs_backwards_returns_nothing_early() -> None:
    deadlines: Deadlines[str] = Deadlines(TICK_S)
    deadlines.add(5.0, "a")
    assert deadlines.due(4.0) == []
    assert deadlines.due(2.0) == []
    assert deadlines.due(5.0) == ["a"]
