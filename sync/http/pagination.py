"""Pages of lists: how many entries, and where the next page begins."""

from __future__ import annotations

import re

from sync.http.problem import Problem

PAGE_DEFAULT, PAGE_MAX = 100, 500
"""Entries of one answer."""

_LIMIT = re.compile(r"[0-9]{1,6}")


def page_limit(text: str | None) -> int:
    """Return how many entries a list shows.

    Raises:
        Problem: it is no number from 1 to PAGE_MAX.
    """
    if text is None:
        return PAGE_DEFAULT
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= PAGE_MAX:
        raise Problem("request_invalid", f"limit must be a number from 1 to {PAGE_MAX}")
    return int(text)


def moment_cursor(text: str | None) -> tuple[int, str] | None:
    """Return the cursor of a list that is ordered by (microseconds since 1970, event id).

    Raises:
        Problem: it is none.
    """
    if text is None:
        return None
    at, dot, event_id = text.partition(".")
    if not dot or not (at.isascii() and at.isdigit()) or len(at) > 16:
        raise Problem("request_invalid", "after is not a cursor: pass what `next` said")
    return int(at), event_id


def stream_cursor(text: str | None) -> str:
    """Return the cursor of a Redis stream (two numbers of 64 bits, not both 0), or empty.

    Raises:
        Problem: it is none.
    """
    if not text:
        return ""
    parts = text.split("-")
    if (
        len(parts) != 2
        or not all(part.isascii() and part.isdigit() and len(part) <= 20 and int(part) < 2**64 for part in parts)
        or not any(map(int, parts))
    ):
        raise Problem("request_invalid", "before is not a cursor: pass what `next` said")
    return text
