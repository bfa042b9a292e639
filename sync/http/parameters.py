"""Parameters of paths, queries and headers. One declaration gives the reading and the OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

from starlette.requests import Request

from sync.core import instants
from sync.http.fields import INSTANT
from sync.http.problem import Problem

_INTEGER = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A string in a request's query. Subclasses are for other places and types.

    Attributes:
        pattern: documentation for clients; the handler does its own checks.
        example: a value for people and for tests; empty if there is none.
    """

    name: str
    description: str
    pattern: str = ""
    example: str = ""

    place: ClassVar[str] = "query"

    def document(self) -> dict[str, Any]:
        """Return the parameter's object in the OpenAPI document."""
        found: dict[str, Any] = {"name": self.name, "in": self.place, "description": self.description}
        found |= {"required": True} if self.place == "path" else {}
        return found | {"schema": self.schema()} | ({"example": self.example} if self.example else {})

    def schema(self) -> Mapping[str, Any]:
        """Return the value's JSON Schema."""
        return {"type": "string", **({"pattern": self.pattern} if self.pattern else {})}


class Text(Parameter):
    """A string in the query; "" if it is absent."""

    def read(self, request: Request) -> str:
        """Return the value."""
        return request.query_params.get(self.name, "")


class PathText(Parameter):
    """A segment of the path."""

    place = "path"

    def read(self, request: Request) -> str:
        """Return the value. The path has been decoded once by then, together with `PathMiddleware`.

        Raises:
            Problem: 422 request_invalid; the path is not UTF-8.
        """
        try:
            return unquote(request.path_params[self.name], errors="strict")
        except UnicodeDecodeError:
            raise Problem("request_invalid", f"{self.name} is not UTF-8, percent-encoded once") from None


class QueryText(Parameter):
    """A text in the query; "" if it is absent."""

    def read(self, request: Request) -> str:
        """Return the value.

        Raises:
            Problem: 422 request_invalid.
        """
        text = request.query_params.get(self.name)
        if text is not None and not re.fullmatch(self.pattern, text):
            raise Problem("request_invalid", f"{self.name} must match {self.pattern}")
        return text or ""


class Moment(Parameter):
    """An RFC 3339 instant in the query, as microseconds since 1970; 0 if it is absent."""

    def read(self, request: Request) -> int:
        """Return the value.

        Raises:
            Problem: 422 request_invalid.
        """
        text = request.query_params.get(self.name)
        if text is None:
            return 0
        try:
            return instants.parse(text) // instants.NS_PER_US
        except instants.InstantError as error:
            raise Problem(
                "request_invalid", f"{self.name} must be a time such as 2027-01-31T12:00:00Z: {error}"
            ) from None

    def schema(self) -> Mapping[str, Any]:
        """Return the value's JSON Schema."""
        return INSTANT


class Header(Parameter):
    """A header of the request."""

    place = "header"


@dataclass(frozen=True, slots=True)
class QueryInteger(Parameter):
    """An integer in the query, from `minimum` to `maximum`; `default` if it is absent."""

    minimum: int = 0
    maximum: int = 0
    default: int = 0

    def read(self, request: Request) -> int:
        """Return the value.

        Raises:
            Problem: 422 request_invalid.
        """
        return query_integer(request, self.name, self.default, self.maximum, self.minimum)

    def schema(self) -> Mapping[str, Any]:
        """Return the value's JSON Schema."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum, "default": self.default}


def query_integer(request: Request, name: str, default: int, maximum: int, minimum: int = 1) -> int:
    """Return an integer in the query; `default` if it is absent.

    Raises:
        Problem: 422 request_invalid.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text) or not minimum <= int(text) <= maximum:
        raise Problem("request_invalid", f"{name} must be an integer from {minimum} to {maximum}")
    return int(text)


PAGE_DEFAULT, PAGE_MAX = 100, 500
"""Entries per page: default and maximum."""

LIMIT = QueryInteger("limit", "The most that one answer lists.", minimum=1, maximum=PAGE_MAX, default=PAGE_DEFAULT)


class MomentCursor(Parameter):
    """A page's start in a list that is ordered by (microseconds since 1970, event id)."""

    def read(self, request: Request) -> tuple[int, str] | None:
        """Return the start; None for the beginning of the list.

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


class StreamCursor(Parameter):
    """A page's start in a Redis stream."""

    def read(self, request: Request) -> str:
        """Return the start; empty for the end of the stream.

        Raises:
            Problem: 422 request_invalid.
        """
        text = request.query_params.get(self.name, "")
        if text and not re.fullmatch(self.pattern, text):
            raise Problem("request_invalid", f"{self.name} is not a cursor: pass what `next` said")
        return text


class SetCursor(Parameter):
    """A page's start in a Redis set, which has no order."""

    def read(self, request: Request) -> str:
        """Return the start; 0 for the beginning.

        Raises:
            Problem: 422 request_invalid.
        """
        text = request.query_params.get(self.name, "0")
        if not re.fullmatch(self.pattern, text) or int(text) >= 2**64:
            raise Problem("request_invalid", f"{self.name} is not a cursor: pass what `next` said")
        return text


AFTER = MomentCursor("after", "What `next` said.", r"^[0-9]{1,16}\.[ -~]{1,200}$")
FROM = SetCursor("from", "What `next` said.", r"^[0-9]{1,20}$")
BEFORE = StreamCursor("before", "What `next` said.", r"^[1-9][0-9]{0,15}-[0-9]{1,16}$")
