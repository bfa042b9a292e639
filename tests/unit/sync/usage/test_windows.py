"""Windows of meters: months with their ends, periods of any length, always UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from sync.core import instants
from sync.usage.windows import PLANNED, Reset, starts


def us(text: str) -> int:
    return instants.parse(text if "T" in text else f"{text}T00:00:00Z") // 1000


def days(found: list[int]) -> list[str]:
    return [instants.text_us(one)[:10] for one in found]


@pytest.mark.parametrize(
    ("reset", "period", "now", "expected"),
    [
        (
            "period",
            ("2026-01-31", "2026-02-28"),
            "2026-02-27",
            ["2026-01-31", "2026-02-28", "2026-03-31"],
        ),
        (
            "period",
            ("2026-02-28", "2026-03-31"),
            "2026-04-30",
            ["2026-04-30", "2026-05-31", "2026-06-30"],
        ),
        (
            "period",
            ("2024-02-29", "2025-02-28"),
            "2025-03-01",
            ["2025-02-28", "2026-02-28", "2027-02-28"],
        ),
        (
            "period",
            ("2026-11-02", "2026-11-09"),
            "2026-11-29",
            ["2026-11-23", "2026-11-30", "2026-12-07"],
        ),
        (
            "period",
            ("2026-01-15", "2026-04-15"),
            "2026-12-01",
            ["2026-10-15", "2027-01-15", "2027-04-15"],
        ),
        ("month", ("2026-01-31", "2027-01-31"), "2026-06-29", ["2026-05-31", "2026-06-30", "2026-07-31"]),
        ("month", ("2026-11-02", "2026-11-09"), "2026-11-29", ["2026-11-01", "2026-12-01", "2027-01-01"]),
        ("period", None, "2026-12-31", ["2026-12-01", "2027-01-01", "2027-02-01"]),
        # A subscription that begins in the future: the window of today is the one before.
        (
            "period",
            ("2026-12-10", "2027-01-10"),
            "2026-12-01",
            ["2026-11-10", "2026-12-10", "2027-01-10"],
        ),
    ],
)
def test_the_windows_of_a_meter(reset: Reset, period: tuple[str, str] | None, now: str, expected: list[str]) -> None:
    found = starts(reset, period and (us(period[0]), us(period[1])), us(now))
    assert days(found)[:3] == expected
    assert len(found) == PLANNED + 1


def test_what_is_never_reset_has_no_windows() -> None:
    assert starts("never", (us("2026-01-31"), us("2026-02-28")), us("2026-02-27")) == []


def test_a_change_of_the_clocks_moves_nothing() -> None:
    """In Berlin the clocks change on 2026-03-29; the period's instant of the day stays in UTC."""
    found = starts("period", (us("2026-03-15T22:30:00Z"), us("2026-04-15T22:30:00Z")), us("2026-04-01"))
    assert [instants.text_us(one)[11:16] for one in found] == ["22:30"] * len(found)


def test_digits_below_a_second_stay() -> None:
    period = us("2026-11-23T00:16:01.871Z"), us("2026-12-23T00:16:01.871Z")
    assert starts("period", period, us("2026-12-01"))[:2] == list(period)


MOMENTS = st.datetimes(datetime(2001, 1, 1), datetime(2090, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@given(MOMENTS, st.timedeltas(timedelta(seconds=1), timedelta(days=800)), MOMENTS, st.sampled_from(["period", "month"]))
def test_now_is_in_the_first_window_and_the_others_follow(
    begins: datetime, length: timedelta, now: datetime, reset: Reset
) -> None:
    now_us, begins_us = (now - EPOCH) // MICROSECOND, (begins - EPOCH) // MICROSECOND
    found = starts(reset, (begins_us, begins_us + length // MICROSECOND), now_us)
    assert found[0] <= now_us < found[1]
    assert found == sorted(set(found))


@given(MOMENTS, st.integers(1, 12), st.integers(0, 30))
def test_a_period_that_is_reported_later_is_one_that_was_planned(begins: datetime, months: int, periods: int) -> None:
    """So a renewal whose event comes late does not begin a further window."""
    day = begins.day

    def after(count: int) -> int:
        year, month = divmod(begins.year * 12 + begins.month - 1 + count * months, 12)
        for last in (day, 30, 29, 28):
            if last <= day:
                try:
                    return (begins.replace(year=year, month=month + 1, day=last) - EPOCH) // MICROSECOND
                except ValueError:
                    continue
        raise AssertionError

    planned = starts("period", (after(0), after(1)), after(0))
    assert after(min(periods, PLANNED)) in planned or day > 28
