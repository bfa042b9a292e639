"""A gateway that says what a test has it say: for what a real one does only on a bad day."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Script = Callable[["Fake", int], Awaitable[None]]
WELCOME = {
    "type": "welcome", "session": "s", "heartbeat_ms": 15000, "fresh": True, "token_expires_at": 4_000_000_000,
    "reconnect": {"min_ms": 10, "max_ms": 40}, "ack": {"share": 1, "after_ms": 0},
}  # fmt: skip


class Fake:
    """One connection of the scripted gateway; `hello` is what came first."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.hello: dict[str, Any] = {}

    async def say(self, type_: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": type_, **fields}))

    async def hear(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.connection.recv())
        return frame

    async def welcome(self, **fields: Any) -> None:
        await self.connection.send(json.dumps(WELCOME | fields))

    async def state(self, version: int, **fields: Any) -> None:
        await self.say("snapshot", topic="tenant:a", version=version, **{"state": {"n": version}, **fields})

    async def stay(self) -> None:
        """Beat until the other side goes."""
        while True:
            await self.say("heartbeat", at=0, fresh=True, verified_at=0)
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def scripted(script: Script, refuse: int = 0) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Serve `script` for each connection, with its number from 0; gives the URL and the hellos so far."""
    hellos: list[dict[str, Any]] = []

    async def handle(connection: ServerConnection) -> None:
        fake = Fake(connection)
        with contextlib.suppress(ConnectionClosed):
            fake.hello = await fake.hear()
            hellos.append(fake.hello)
            await script(fake, len(hellos) - 1)

    def refusal(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(refuse, "no") if refuse else None

    async with serve(handle, "127.0.0.1", 0, subprotocols=["planwire.v1"], process_request=refusal) as server:  # type: ignore[list-item]
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", hellos
