"""A real web process's server inside the test, on a port the system chose, and clients for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway.app import create_app
from gateway.auth.tokens import mint
from gateway.node import Node
from gateway.server.main import configuration
from gateway.server.server import Server
from gateway.settings import GatewaySettings
from tests.support.wait import until

SECRET = "an-hs256-secret-for-tests-only-0123456789"
PUBLISH_KEY = "a-publish-key-for-tests"

MAX_WAIT_S = 20.0
"""How long what must come may take where the time is not the point: a machine may stand still for seconds."""


def token(*topics: str, ttl_s: float = 600, sub: str = "tester", **options: Any) -> str:
    """Return a token for `topics` (default: all)."""
    return mint(SECRET, topics=topics or ("*",), now=time.time(), ttl_s=ttl_s, sub=sub, **options)


def forged(*topics: str) -> str:
    """Return a token that another secret has signed. One with a few characters changed may, rarely, be the same."""
    return mint(SECRET[::-1], topics=topics or ("*",), now=time.time(), ttl_s=600, sub="tester")


@dataclass
class Running:
    """A gateway that serves."""

    node: Node
    port: int
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/connect"


def environment(store_url: str, **settings: str) -> dict[str, str]:
    """Return an environment for a gateway on `store_url`; `settings` are names without the prefix."""
    environ = {
        "PLANWIRE_REDIS_URL": store_url,
        "PLANWIRE_JWT_SECRET": SECRET,
        "PLANWIRE_PUBLISH_KEYS": f"tests:{hashlib.sha256(PUBLISH_KEY.encode()).hexdigest()}",
        "PLANWIRE_INTAKE": "0",
        "PLANWIRE_DRAIN_S": "0",
        # Tests share the machine: whoever says hello late there is not slow on purpose.
        "PLANWIRE_HELLO_TIMEOUT_S": "30",
        # Tests share the clock, too: a token ends when it says so. The leeway has tests of its own.
        "PLANWIRE_TOKEN_LEEWAY_S": "0",
        "PORT": "0",
    }
    environ.update({name if name == "PORT" else f"PLANWIRE_{name}": value for name, value in settings.items()})
    return environ


@asynccontextmanager
async def run_gateway(environ: Mapping[str, str], *, until_fresh: bool = True) -> AsyncIterator[Running]:
    """Serve a gateway configured by `environ` while the context is open."""
    settings = GatewaySettings.from_env(environ)
    server = Server(configuration(settings, factory=lambda: create_app(environ)))
    task = asyncio.create_task(server._serve())
    try:
        while not server.started:
            await asyncio.sleep(0.005)
            if task.done():
                task.result()
                raise AssertionError("the gateway did not start")
        node = server.lifespan.state["node"]
        if until_fresh:
            await until(lambda: bool(node.hub.fresh), timeout_s=MAX_WAIT_S)
        yield Running(node, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        server.should_exit = True
        await task


class Client:
    """A planwire.v1 client for tests: sends frames, and keeps what it received."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, type_: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": type_, **fields}))

    async def receive(self, timeout_s: float = MAX_WAIT_S, *, heartbeats: bool = False) -> dict[str, Any]:
        """Return the next frame; heartbeats come at any time and are passed over unless asked for."""
        async with asyncio.timeout(timeout_s):
            while True:
                frame: dict[str, Any] = json.loads(await self.connection.recv())
                if heartbeats or frame["type"] != "heartbeat":
                    return frame

    async def until(self, type_: str, timeout_s: float = MAX_WAIT_S) -> dict[str, Any]:
        """Return the next frame of a type, dropping others."""
        async with asyncio.timeout(timeout_s):
            while True:
                frame = await self.receive(timeout_s, heartbeats=True)
                if frame["type"] == type_:
                    return frame

    async def closed(self, timeout_s: float = MAX_WAIT_S) -> tuple[int | None, str | None]:
        """Return code and reason once the socket is closed."""
        async with asyncio.timeout(timeout_s):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def open_client(
    running: Running, *topics: str, hello: bool = True, jwt: str | None = None, held: int = 0, **options: Any
) -> AsyncIterator[Client]:
    """Connect, say hello for `topics`, and give the client; the welcome is still to be received."""
    async with connect(
        running.ws_url,
        subprotocols=[Subprotocol("planwire.v1")],
        compression=options.pop("compression", None),
        **options,
    ) as connection:
        client = Client(connection)
        if hello:
            wanted = dict.fromkeys(topics, held)
            await client.send("hello", token=jwt or token(), topics=wanted, client="tests")
        yield client
