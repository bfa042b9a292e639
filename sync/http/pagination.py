"""Pages of lists: how many entries, and where the next page begins."""

from __future__ import annotations

from starlette.requests import Request

from sync.http.parameters import QueryInteger, QueryText
from sync.http.problem import Problem

PAGE_DEFAULT, PAGE_MAX = 100, 500
"""Entries of one answer."""

LIMIT = QueryInteger("limit", "The most that one answer lists.", minimum=1, maximum=PAGE_MAX, default=PAGE_DEFAULT)


class MomentCursor(QueryText):
    """The place in a list that is ordered by (microseconds since 1970, event id)."""

    def read(self, request: Request) -> tuple[int, str] | None:
        """Return the place; None: the beginning.

        Raises:
            Problem: 422 request_invalid.
        """
        text = request.query_params.get(self.name)
        if text is None:
            return None
        at, dot, event_id = text.partition(".")
        if not dot or not (at.isascii() and at.isdigit()) or len(at) > 16:
            raise Problem("request_invalid", f"{self.name} is not a cursor: pass what `next` said")
        return int(at), event_id


class StreamCursor(QueryText):
    """The place in a Redis stream: two numbers of 64 bits, not both 0."""

    def read(self, request: Request) -> str:
        """Return the place; empty: the end.

        Raises:
            Problem: 422 request_invalid.
        """
        text = request.query_params.get(self.name, "")
        parts = text.split("-")
        is_place = (
            len(parts) == 2
            and all(part.isascii() and part.isdigit() and len(part) <= 20 and int(part) < 2**64 for part in parts)
            and any(map(int, parts))
        )
        if text and not is_place:
            raise Problem("request_invalid", f"{self.name} is not a cursor: pass what `next` said")
        return text


AFTER = MomentCursor("after", "What `next` said.", r"^[0-9]{1,16}\.[ -~]{1,200}$")
BEFORE = StreamCursor("before", "What `next` said.", r"^[1-9][0-9]{0,15}-[0-9]{1,16}$")
