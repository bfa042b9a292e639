"""An echo on the gateway's own WebSocket class, served the way the gateway is: what conformance suites talk to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from unittest.mock import AsyncMock

from starlette.applications import Starlette

from gateway.metrics import Metrics
from gateway.server.main import configuration
from gateway.server.server import Server
from gateway.settings import GatewaySettings
from gateway.ws import frames
from gateway.ws.connection import WebSocket

FRAME_LIMIT_BYTES = 2**26
"""Above the largest message of the suites (16 MiB)."""

FRAGMENTS = 2**20
CLOSE_TIMEOUT_S = 2.0


class Echo(WebSocket):
    """Sends every message back as it came; compressed where that was negotiated."""

    path = b"/"
    subprotocol = None
    fragments_max = FRAGMENTS

    def frame_limit(self) -> int:
        """Return more than any suite sends."""
        return FRAME_LIMIT_BYTES

    def received(self, data: bytes, is_text: bool) -> None:
        """Send it back."""
        encoded = frames.text(data, self._extension is not None)
        # The opcode is the low four bits of the first byte: 1 is text, 2 is binary.
        self.write(encoded if is_text else bytes((encoded[0] ^ 3,)) + encoded[1:])

    def on_closing(self) -> None:
        """Wait for the peer's answer no longer than the gateway does."""
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)


@asynccontextmanager
async def run_echo() -> AsyncIterator[int]:
    """Serve the echo while the context is open; gives its port."""
    settings = GatewaySettings.from_env({"PORT": "0", "PLANWIRE_JWT_SECRET": "x" * 32})

    @asynccontextmanager
    async def opened(_: Starlette) -> AsyncIterator[dict[str, object]]:
        registry = SimpleNamespace(drain=AsyncMock())
        yield {"node": SimpleNamespace(settings=settings, metrics=Metrics(), registry=registry)}

    config = configuration(settings, factory=lambda: Starlette(lifespan=opened))
    config.ws = Echo
    server = Server(config)
    task = asyncio.create_task(server._serve())
    try:
        while not server.started:
            await asyncio.sleep(0.005)
            if task.done():
                task.result()
                raise AssertionError("the echo did not start")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
