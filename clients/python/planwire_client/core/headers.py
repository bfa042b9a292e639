"""HTTP headers: Planwire-Version for read-your-writes, and Retry-After. Pure.

A backend answers a change with the version that it led to. The next request carries that version, and is answered from
this version or a newer one.
"""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping
from typing import Protocol

VERSION_HEADER = "Planwire-Version"

AHEAD_MAX_S = 60.0
"""Seconds that a version, which is the store's time, may be ahead of this machine's clock."""

RETRY_AFTER_MAX_S = 86_400.0


class Headers(Protocol):
    """Response headers of any web framework."""

    def __setitem__(self, name: str, value: str, /) -> None:
        """Set a header."""


def write_version(headers: Headers, version: int) -> None:
    """Set the response's header to the version that the request led to, or that it was answered from."""
    headers[VERSION_HEADER] = str(version)


def read_version(headers: Mapping[str, str], now: float) -> int:
    """Return the version in a request's header, for use as `min_version`; 0 for none.

    An invalid version, or one from the future, counts as none, so that a caller cannot make the backend wait.

    Args:
        headers: the request's headers, looked up as web frameworks do, without regard to case.
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
