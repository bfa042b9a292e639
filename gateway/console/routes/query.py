"""Checked access to the parts of a console request, and the types of handlers."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.requests import Request

from gateway.console.auth import Principal
from planwire_client.core.topic import RESERVED_KINDS, Topic, TopicError, decoded_topic, read_topic
from sync.http.fields import READABLE_TOPIC_PATTERN, TOPIC_IN_PATH
from sync.http.parameters import PathText
from sync.http.problem import Problem

NAME = PathText("name", TOPIC_IN_PATH, READABLE_TOPIC_PATTERN)

Members = dict[str, Any]
"""The members of a JSON answer. The route adds the gateway and the time."""

Answerer = Callable[[Request, Principal], Awaitable[Members]]
"""Answers a request of an admitted caller."""

Action = Callable[[Mapping[str, Any], Principal], Awaitable[Members]]
"""Does an action with the parameters in the body, for an authorized caller."""


def topic_of(request: Request) -> Topic:
    """Return the topic in the path.

    Raises:
        Problem: 422 topic_invalid.
    """
    return _checked(decoded_topic, NAME.read(request))


def parsed(name: object) -> Topic:
    """Return the topic of that name, which may be in its readable form.

    Raises:
        Problem: 422 topic_invalid, also for a topic of the gateways themselves.
    """
    return _checked(read_topic, name if isinstance(name, str) else "")


def _checked(read: Callable[[str], Topic], text: str) -> Topic:
    try:
        topic = read(text)
    except TopicError as error:
        raise Problem("topic_invalid", str(error)) from None
    if topic.kind in RESERVED_KINDS:
        raise Problem("topic_invalid", f"topics of kind {topic.kind} are the gateways' own")
    return topic


def only_topic(body: Mapping[str, Any]) -> Topic:
    """Return the topic in a body, which must have no other member.

    Raises:
        Problem: 422 request_invalid or topic_invalid.
    """
    if body.keys() != {"topic"}:
        raise Problem("request_invalid", "send topic, and nothing else")
    return parsed(text_of(body, "topic"))


def text_of(body: Mapping[str, Any], name: str) -> str:
    """Return a member of a body, which must be text.

    Raises:
        Problem: 422 request_invalid.
    """
    value = body.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 512:
        raise Problem("request_invalid", f"{name} is a string of 1 to 512 characters")
    return value


def without(document: Mapping[str, Any], *names: str) -> Members:
    """Return the other members of a document."""
    return {name: value for name, value in document.items() if name not in names}


@contextlib.contextmanager
def forwarded() -> Iterator[None]:
    """Re-raise a problem of billing as one of the console, with its code in the detail and in `cause_code`."""
    try:
        yield
    except Problem as problem:
        code = {404: "not_found", 409: "conflict", 422: "request_invalid"}.get(problem.status, "action_failed")
        if problem.code == "store_unavailable":
            code = problem.code
        raise Problem(code, str(problem), extra={"cause_code": problem.code}) from problem
