"""Instants as integers, microseconds since 1970, and how Paddle writes them. Pure."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(?P<to_second>\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d{1,9}))?(?P<zone>Z|[+-]\d{2}:\d{2})"
)


def rfc3339(at_us: int) -> str:
    """The instant in UTC with six fraction digits and a `Z`, as most of Paddle's stamps are."""
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 instant with up to nine fraction digits.

    Raises:
        ValueError: the text is not one, or has no zone.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    zone = "+00:00" if match["zone"] == "Z" else match["zone"]
    whole = datetime.fromisoformat(match["to_second"] + zone)
    fraction_us = int((match["fraction"] or "0").ljust(6, "0")[:6])
    return (whole - _EPOCH) // timedelta(microseconds=1) + fraction_us


def month_after(at_us: int) -> int:
    """The same time of day one calendar month later, on the last day where the month is shorter."""
    at = _EPOCH + timedelta(microseconds=at_us)
    year, month = (at.year, at.month + 1) if at.month < 12 else (at.year + 1, 1)
    day = min(at.day, calendar.monthrange(year, month)[1])
    return (at.replace(year=year, month=month, day=day) - _EPOCH) // timedelta(microseconds=1)
