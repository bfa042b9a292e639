"""The judge passes a correct history and finds every kind of violation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from tests.faults.history import (
    Acked,
    Answered,
    Asked,
    Bounds,
    Claimed,
    Deaf,
    Fact,
    Healed,
    Lost,
    Shown,
    Told,
    converged_at,
    judge,
)

T = "tenant:a"
BOUNDS = Bounds(converge=1.0, notice=2.0)

GOOD: list[Fact] = [
    Asked(0.0, T, 1),
    Answered(0.1, T, 1, 100),
    Shown(0.2, "tab", T, 100, 1),
    Acked(0.3, "tab", T, 100),
    Claimed(0.35, T, 100),
    Told(0.4, "tab", "a", True),
    Deaf(1.0, 9.0, "a"),
    Asked(2.0, T, 2),
    Told(2.5, "tab", "a", True),
    Told(3.5, "tab", "a", False),
    Answered(4.0, T, 2, 200),
    Told(4.5, "tab", "b", True),
    Healed(10.0, 12.0, frozenset({"tab"}), {T: 200}),
    Shown(10.5, "tab", T, 200, 2),
    Told(10.6, "tab", "a", True),
]


def changed(old: Fact | None, *new: Fact) -> list[Fact]:
    """Return GOOD with `old` replaced by `new`, or with `new` added, sorted by time."""
    kept = [fact for fact in GOOD if fact is not old]
    assert old is None or len(kept) < len(GOOD)
    return sorted([*kept, *new], key=lambda fact: fact.at)


def test_what_is_right_passes() -> None:
    assert judge(GOOD, BOUNDS) == []


@pytest.mark.parametrize(
    ("history", "said"),
    [
        pytest.param(changed(None, Shown(10.7, "tab", T, 100, 1)), "went back", id="back"),
        pytest.param(
            changed(None, Shown(10.7, "tab", T, 100, 1, reset=True)), "nothing was lost", id="reset without a loss"
        ),
        pytest.param(changed(None, Shown(1.5, "tab", T, 200, 2)), "nobody had published", id="before it was published"),
        pytest.param(changed(None, Asked(0.0, T, 7), Shown(10.7, "tab", T, 200, 7)), "which is 2", id="another state"),
        pytest.param(changed(None, Shown(10.7, "tab", T, 300, 9)), "nobody had published", id="never published"),
        pytest.param(changed(None, Shown(0.05, "x", T, 0, 1)), "as version 0", id="state without a version"),
        pytest.param(changed(None, Shown(10.7, "tab", T, 300, 2)), "took effect 2 times", id="two effects"),
        pytest.param(changed(None, Answered(5.0, T, 2, 250)), "took effect 2 times", id="two effects, by the answers"),
        pytest.param(changed(GOOD[13]), "after healing, not 200", id="never converges"),
        pytest.param(
            changed(GOOD[13], Shown(11.5, "tab", T, 200, 2)), "after healing, not 200", id="converges too late"
        ),
        pytest.param(
            changed(GOOD[12], Healed(10.0, 12.0, frozenset({"tab", "other"}), {T: 200})),
            "other shows None",
            id="one of two",
        ),
        pytest.param(
            changed(None, Asked(5.0, T, 3), Answered(5.1, T, 3, 300)), "3 had been answered", id="an answer forgotten"
        ),
        pytest.param(
            changed(GOOD[12], Healed(10.0, 12.0, frozenset(), {T: 0})), "has no state", id="everything forgotten"
        ),
        pytest.param(
            changed(None, Healed(9.5, 9.5, frozenset(), {T: 100})), "2 had been answered", id="forgotten for a while"
        ),
        pytest.param(
            changed(GOOD[12], Lost(9.0, since=4.1), Healed(10.0, 12.0, frozenset(), {T: 100})),
            "2 had been answered",
            id="lost, though answered before what was lost",
        ),
        pytest.param(
            changed(GOOD[12], Shown(8.0, "x", T, 200, 2), Lost(9.0), Healed(10.0, 12.0, frozenset(), {T: 100})),
            "2 had been answered",
            id="lost, though somebody held it",
        ),
        pytest.param(changed(None, Told(3.1, "tab", "a", True)), "deaf for 2.1 s", id="fresh though deaf"),
        pytest.param(
            changed(None, Told(3.2, "tab", "a", True, late_s=0.1)), "deaf for 2.1 s", id="fresh though deaf, read late"
        ),
        pytest.param(
            changed(None, Lost(9.0, since=4.1, held=False), Shown(10.7, "tab", T, 300, 2)),
            "took effect 2 times",
            id="two effects, the first before what was lost",
        ),
        pytest.param(
            changed(None, Told(11.0, "tab", "b", True, 2.1)), "verified 2.1 s ago", id="fresh on an old proof"
        ),
        pytest.param(changed(None, Told(11.0, "tab", "b", True, -1.0)), "verified -1.0 s ago", id="a proof to come"),
        pytest.param(changed(None, Acked(10.7, "tab", T, 300)), "without having shown it", id="acked unseen"),
        pytest.param(changed(None, Acked(0.15, "tab", T, 100)), "without having shown it", id="acked too early"),
        pytest.param(changed(None, Claimed(10.7, T, 201)), "counts as acknowledged", id="claimed unseen"),
        pytest.param(changed(None, Claimed(10.4, T, 200)), "counts as acknowledged", id="claimed too early"),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(history: list[Fact], said: str) -> None:
    found = judge(history, BOUNDS)
    assert any(said in violation for violation in found), found


def test_a_reset_after_a_loss_is_allowed_and_counts_as_going_on_from_there() -> None:
    history = changed(
        GOOD[13],
        Lost(9.0),
        Shown(4.2, "tab", T, 200, 2),
        Shown(9.5, "tab", T, 100, 1, reset=True),
        Shown(10.2, "tab", T, 200, 2),
    )
    assert judge(history, BOUNDS) == []


def test_what_the_store_lost_and_nobody_had_been_shown_may_be_gone() -> None:
    lost = Lost(9.0, since=3.9)
    history = changed(GOOD[12], lost, Healed(10.0, 12.0, frozenset(), {T: 100}))
    assert judge(history, BOUNDS) == []
    assert judge([fact for fact in history if fact is not lost], BOUNDS) != []


def test_what_the_store_lost_and_no_gateway_outlived_may_be_gone_though_it_was_shown() -> None:
    lost = Lost(9.0, since=3.9, held=False)
    history = changed(GOOD[12], Shown(8.0, "x", T, 200, 2), lost, Healed(10.0, 12.0, frozenset(), {T: 100}))
    assert judge(history, BOUNDS) == []
    again = changed(
        GOOD[13],
        Shown(8.0, "tab", T, 200, 2),
        lost,
        Healed(9.4, 9.4, frozenset(), {T: 100}),
        Shown(9.5, "tab", T, 100, 1, reset=True),
        Shown(9.9, "tab", T, 250, 2),
        Healed(10.0, 12.0, frozenset({"tab"}), {T: 250}),
    )
    again.remove(GOOD[12])
    assert judge(again, BOUNDS) == []
    assert any("took effect 2 times" in said for said in judge([fact for fact in again if fact is not lost], BOUNDS))


def test_what_was_said_in_time_may_be_read_late() -> None:
    assert judge(changed(None, Told(3.1, "tab", "a", True, late_s=0.3)), BOUNDS) == []


def test_the_time_to_converge_is_that_of_the_last() -> None:
    healed = Healed(10.0, 12.0, frozenset({"tab", "two"}), {T: 200})
    history = [*GOOD, Shown(11.0, "two", T, 100, 1), Shown(11.25, "two", T, 200, 2)]
    assert converged_at(history, healed) == 1.25
    assert converged_at(GOOD, healed) is None


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_tab_that_jumps_back_is_found_wherever_it_does(seed: int, length: int) -> None:
    """Any rising history passes; with one step reversed it fails."""
    chance = random.Random(seed)
    versions = sorted(chance.sample(range(1, 1000), length + 1))
    history: list[Fact] = [Asked(0.0, T, version) for version in versions]
    history += [Shown(float(index + 1), "tab", T, version, version) for index, version in enumerate(versions)]
    assert judge(history, BOUNDS) == []
    at = chance.randrange(length)
    first, second = history[len(versions) + at], history[len(versions) + at + 1]
    assert isinstance(first, Shown)
    assert isinstance(second, Shown)
    history[len(versions) + at] = Shown(first.at, "tab", T, second.version, second.n)
    history[len(versions) + at + 1] = Shown(second.at, "tab", T, first.version, first.n)
    assert any("went back" in violation for violation in judge(history, BOUNDS))
