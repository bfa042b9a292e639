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
"""How far beyond this machine's clock a version may be: versions are the store's time, and its clock may differ."""

_DIGITS_MAX = 16

RETRY_AFTER_MAX_S = 86_400.0


class Headers(Protocol):
    """What a web framework's response headers have in common."""

    def __setitem__(self, name: str, value: str, /) -> None:
        """Set one."""


def write_version(headers: Headers, version: int) -> None:
    """Say in a response's headers which version its request led to, or was answered from."""
    headers[VERSION_HEADER] = str(version)


def read_version(headers: Mapping[str, str], now: float) -> int:
    """Return the version a request says it has seen: what to pass as `min_version`. 0 where it says none.

    `headers` looks names up in any case, as those of web frameworks do. `now`: Unix seconds. What is not a version,
    or one from the future, counts as none: else anybody could have themselves waited for.
    """
    text = headers.get(VERSION_HEADER, "").strip()
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        return 0
    version = int(text)
    return version if version <= (now + AHEAD_MAX_S) * 1_000_000 else 0


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return the seconds a Retry-After header asks for (RFC 9110 section 10.2.3), or None where it says nothing."""
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
