"""An ASGI application of a test's own, served on a loopback port that the system chose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import uvicorn
from starlette.types import ASGIApp

from tests.support.wait import until

END_S = 1
"""How long answers that are under way, or that a failed test still holds back, are waited for at the end."""


def listening() -> socket.socket:
    """A socket that listens already: whoever connects now is served once somebody serves."""
    # The protocol named, or asyncio leaves Nagle's algorithm on and each answer takes 40 ms longer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve `app` while the context is open; gives its base URL."""
    with closing(listener or listening()) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=END_S))
        task = asyncio.create_task(server.serve(sockets=[bound]))
        await until(lambda: server.started or task.done())
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
