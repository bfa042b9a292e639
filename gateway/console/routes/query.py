"""The parameters of console requests, each checked, and the form of the answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.console.auth import Principal
from gateway.node import Node
from planwire_client.core.topic import RESERVED_KINDS, Topic, TopicError
from sync.http.problem import Problem

Action = Callable[[Mapping[str, Any], Principal], Awaitable[dict[str, Any]]]
"""Does what a body asks for; returns the members of the answer."""


def console_json(node: Node, **members: object) -> Response:
    """Return an answer of the console's API: `members`, and the gateway and time that they are of."""
    body = {"gateway": node.name, "at": time.time(), **members}
    return Response(orjson.dumps(body), media_type="application/json")


def topic_of(request: Request) -> Topic:
    """Return the topic that the path names.

    Raises:
        Problem: 422 topic_invalid.
    """
    return parsed(request.path_params["name"])


def parsed(name: object) -> Topic:
    """Return the topic of that name.

    Raises:
        Problem: 422 topic_invalid, also for a topic of the gateways' own.
    """
    try:
        topic = Topic.parse(name if isinstance(name, str) else "")
    except TopicError as error:
        raise Problem("topic_invalid", str(error)) from None
    if topic.kind in RESERVED_KINDS:
        raise Problem("topic_invalid", f"topics of kind {topic.kind} are the gateways' own")
    return topic


def number(text: str | None, default: int, most: int, least: int = 1) -> int:
    """Return the number in a query.

    Raises:
        Problem: 422 request_invalid.
    """
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or not least <= int(text) <= most:
        raise Problem("request_invalid", f"a number in the query is not one from {least} to {most}")
    return int(text)


def only(body: Mapping[str, Any], name: str) -> str:
    """Return the one member of a body.

    Raises:
        Problem: 422 request_invalid.
    """
    if body.keys() != {name}:
        raise Problem("request_invalid", f"send {name}, and nothing else")
    return text_of(body, name)


def text_of(body: Mapping[str, Any], name: str) -> str:
    """Return a member of a body that is a text.

    Raises:
        Problem: 422 request_invalid.
    """
    value = body.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 512:
        raise Problem("request_invalid", f"{name} is a string of 1 to 512 characters")
    return value
