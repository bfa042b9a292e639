"""The usual python-socketio gateway: a room per topic, and the current state read from Redis for every socket.

It has no connection state recovery. No auth, one process. `STORE_PORT` says where the store is; uvicorn serves
`socketio_app:app`, in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import socketio  # type: ignore[import-not-found, unused-ignore]
from redis.asyncio import Redis

store = Redis(port=int(os.environ["STORE_PORT"]))
server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
tasks: set[asyncio.Task[None]] = set()


async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
    topic = auth["topic"]
    await server.enter_room(sid, topic)
    state = await store.get(f"state:{topic}")
    await server.emit("state", json.loads(state or b"null"), to=sid)


async def listen() -> None:
    async with store.pubsub() as pubsub:
        await pubsub.psubscribe("state:*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                topic = message["channel"].decode().removeprefix("state:")
                await server.emit("state", json.loads(message["data"]), room=topic)


async def start() -> None:
    tasks.add(asyncio.create_task(listen()))


server.on("connect", connect)
app = socketio.ASGIApp(server, on_startup=start)
