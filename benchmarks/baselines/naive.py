"""The gateway everybody writes first: Starlette, a set of sockets per topic, `await send_text` to one after the other.

No auth, no limits, no heartbeats of its own. `STORE_PORT` says where the store is; uvicorn serves `naive:app`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

topics: dict[bytes, set[WebSocket]] = {}


async def endpoint(socket: WebSocket) -> None:
    await socket.accept()
    sockets = topics.setdefault(f"pw:{{bench:{socket.path_params['topic']}}}".encode(), set())
    await socket.send_text('{"t":0}')
    sockets.add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        sockets.discard(socket)


async def listen() -> None:
    async with Redis(port=int(os.environ["STORE_PORT"])).pubsub() as pubsub:
        await pubsub.psubscribe("pw:{bench:*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                state = message["data"].partition(b"\n")[2].decode()
                for socket in list(topics.get(message["channel"], ())):
                    await socket.send_text(state)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    task = asyncio.create_task(listen())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


app = Starlette(routes=[WebSocketRoute("/ws/{topic}", endpoint)], lifespan=lifespan)
