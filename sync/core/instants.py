"""Instants: RFC 3339 text to integer nanoseconds since 1970 and back. Pure.

Providers write 0 to 9 fraction digits: such text does not sort by time, and microseconds would lose digits.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import lru_cache

NS_PER_S = 1_000_000_000
NS_PER_US = 1_000
EARLIEST_YEAR, LATEST_YEAR = 1970, 2261
"""The years in which nanoseconds since 1970 are positive and fit 63 bits."""

_EPOCH = date(1970, 1, 1)
_TEXT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


class InstantError(ValueError):
    """The text is not an RFC 3339 instant between 1970 and 2261."""


@lru_cache(maxsize=4096)
def _day_s(text: str) -> int:
    day = date.fromisoformat(text)
    if not EARLIEST_YEAR <= day.year <= LATEST_YEAR:
        raise ValueError(text)
    return (day - _EPOCH).days * 86_400


def parse(text: object) -> int:
    """Return nanoseconds since 1970 of an RFC 3339 instant with 0 to 9 fraction digits (more are an error).

    A leap second (`:60`) counts as the first second of the next minute, as POSIX time does.

    Raises:
        InstantError: `text` is not such an instant.
    """
    try:
        match = _TEXT.fullmatch(text if isinstance(text, str) else "")
        if match is None:
            raise ValueError(text)
        day, hour, minute, second, fraction, sign, *offsets = match.groups()
        hours, minutes, whole = int(hour), int(minute), int(second)
        offset_hours, offset_minutes = map(int, offsets) if sign else (0, 0)
        offset = offset_hours * 3600 + offset_minutes * 60
        seconds = _day_s(day) + hours * 3600 + minutes * 60 + whole + (offset if sign == "-" else -offset)
        if hours > 23 or minutes > 59 or whole > 60 or offset_hours > 23 or offset_minutes > 59 or seconds < 0:
            raise ValueError(text)
    except ValueError:
        shown = f"{str(text)[:60]!r} is not an RFC 3339 time between {EARLIEST_YEAR} and {LATEST_YEAR}"
        raise InstantError(shown) from None
    return seconds * NS_PER_S + (int(fraction.ljust(9, "0")) if fraction else 0)


@lru_cache(maxsize=4096)
def text(ns: int) -> str:
    """Return the instant as RFC 3339 UTC, with the fewest fraction digits (0, 3, 6 or 9) that are exact."""
    seconds, fraction = divmod(ns, NS_PER_S)
    days, rest = divmod(seconds, 86_400)
    day = _EPOCH + timedelta(days=days)
    digits = f".{fraction:09d}" if fraction else ""
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{day.isoformat()}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}{digits}Z"


def text_us(us: int) -> str:
    """Return an instant in microseconds since 1970, such as a version, as RFC 3339 UTC with six fraction digits."""
    whole, fraction = divmod(us, 1_000_000)
    return f"{text(whole * NS_PER_S)[:-1]}.{fraction:06d}Z"
