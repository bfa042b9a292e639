"""The windows in which usage counts: billing periods, months, or one without end. Pure.

All of it is UTC, so no clock changes. A month has the day of the period's start, or its last day if it is shorter: what
began on January 31 goes on on February 28 and on March 31.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Literal

Reset = Literal["period", "month", "never"]

PLANNED = 36
"""Windows that are planned ahead. After the last one, the next call plans again."""

US_PER_S = 1_000_000
MONTH_MIN_US = 28 * 86_400 * US_PER_S

Period = tuple[int, int]
"""Start and end, microseconds since 1970."""


def starts(reset: Reset, period: Period | None, now_us: int) -> list[int]:
    """Return the starts of the window at `now_us` and of the next PLANNED ones, microseconds since 1970.

    Args:
        reset: when the count begins anew.
        period: the billing period that was reported last; None if there is none, then months of the calendar count.
        now_us: the store's time.

    Returns:
        Nothing for a window without end.
    """
    if reset == "never":
        return []
    if period is None or period[1] - period[0] < US_PER_S:
        return _monthly(_CALENDAR, 1, 1, now_us)
    begins, ends = map(_datetime, period)
    day = max(begins.day, ends.day)
    months = (ends.year - begins.year) * 12 + ends.month - begins.month
    is_monthly = months > 0 and _add(begins, months, day) == ends and _add(begins, 0, day) == begins
    if reset == "month":
        # A weekly period has no day of the month.
        anchor = begins if period[1] - period[0] >= MONTH_MIN_US else _CALENDAR
        return _monthly(anchor, 1, day if is_monthly else anchor.day, now_us)
    if is_monthly:
        return _monthly(begins, months, day, now_us)
    length = period[1] - period[0]
    first = period[0] + (now_us - period[0]) // length * length
    return list(range(first, first + (PLANNED + 1) * length, length))


_EPOCH = _CALENDAR = datetime(1970, 1, 1, tzinfo=UTC)


def _datetime(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _add(instant: datetime, months: int, day: int) -> datetime:
    """Return the instant some months later, on `day` or the last day of that month."""
    year, month = divmod(instant.year * 12 + instant.month - 1 + months, 12)
    return instant.replace(year=year, month=month + 1, day=min(day, monthrange(year, month + 1)[1]))


def _monthly(begins: datetime, step: int, day: int, now_us: int) -> list[int]:
    now = _datetime(now_us)
    before = ((now.year - begins.year) * 12 + now.month - begins.month) // step - 1
    found = [
        (_add(begins, number * step, day) - _EPOCH) // timedelta(microseconds=1)
        for number in range(before, before + PLANNED + 3)
    ]
    current = max(index for index, us in enumerate(found) if us <= now_us)
    return found[current : current + PLANNED + 1]
