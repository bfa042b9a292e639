"""An app is opened when the process starts, serves until it ends, and says in one line why it cannot start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message

from gateway.app import DeferredApp
from gateway.errors import GatewayError


async def live(app: ASGIApp, state: dict[str, Any]) -> list[Message]:
    """Start an app and stop it; return what it said."""
    steps: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said: list[Message] = []

    async def receive() -> Message:
        return steps.pop(0)

    async def send(message: Message) -> None:
        said.append(message)

    await app({"type": "lifespan", "state": state}, receive, send)
    return said


async def test_the_app_is_open_from_the_start_to_the_end() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[ASGIApp, dict[str, Any]]]:
        events.append("open")
        yield PlainTextResponse("hello"), {"node": "n"}
        events.append("closed")

    app, state = DeferredApp(opened), dict[str, Any]()
    assert events == [], "nothing is opened before the process starts"
    assert [one["type"] for one in await live(app, state)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert (events, state) == (["open", "closed"], {"node": "n"})
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent[-1]["body"] == b"hello"


async def fail() -> None:
    raise GatewayError("the store is away")


async def test_a_start_that_fails_is_told_in_one_line() -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[ASGIApp, dict[str, Any]]]:
        await fail()
        yield PlainTextResponse("never"), {}

    state: dict[str, Any] = {}
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        said.append(message)

    with pytest.raises(GatewayError):
        await DeferredApp(opened)({"type": "lifespan", "state": state}, receive, send)
    assert said == [{"type": "lifespan.startup.failed", "message": "the store is away"}]
    assert state == {"failure": "the store is away"}
