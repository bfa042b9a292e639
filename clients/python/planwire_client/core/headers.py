"""HTTP headers: Planwire-Version for read-your-writes, and Retry-After. Pure.

A backend answers a change with the version it led to. The next request sends it along, and is not answered from
anything older.
"""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping
from typing import Protocol

VERSION_HEADER = "Planwire-Version"

AHEAD_MAX_S = 60.0
"""Seconds that a version may be ahead of this machine's clock: versions are the store's time."""

RETRY_AFTER_MAX_S = 86_400.0


class Headers(Protocol):
    """Response headers of any web framework."""

    def __setitem__(self, name: str, value: str, /) -> None:
        """Set one."""


def write_version(headers: Headers, version: int) -> None:
    """Set the header of a response to the version that its request led to, or was answered from."""
    headers[VERSION_HEADER] = str(version)


def read_version(headers: Mapping[str, str], now: float) -> int:
    """Return the version that a request has seen, to be passed as `min_version`; 0 for none.

    A text that is no version, or one from the future, counts as none: a caller must not make the backend wait.

    Args:
        headers: the request's; names are looked up in any case, as web frameworks do.
        now: Unix seconds.
    """
    text = headers.get(VERSION_HEADER, "").strip()
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        return 0
    version = int(text)
    return version if version <= (now + AHEAD_MAX_S) * 1_000_000 else 0


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return the seconds in a Retry-After header (RFC 9110 section 10.2.3), or None. `now`: Unix seconds."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), RETRY_AFTER_MAX_S)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return min(max(0.0, at.timestamp() - now), RETRY_AFTER_MAX_S)
