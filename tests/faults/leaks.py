"""Tabs that come, subscribe, are published to and go, again and again: what is left of them afterwards.

Looked at is the gateway as a process: resident memory, open files, tasks, sockets, topics; and the store's own count of
clients and subscribed channels. A first stretch is not counted: caches fill, arenas grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from sync.state.connect import connect as connect_store
from sync.state.store import Change, Store
from tests.faults.rig import Gateway, Process
from tests.support.gateway import environment, token
from tests.support.processes import clean_environ
from tests.support.proxy import run_proxy
from tests.support.servers import free_port, start_valkey
from tests.support.wait import until

TABS = 60
TOPICS = 200

MEMORY_GROWTH_KIB = 4096
"""Of noise: the allocator's, not the tabs'. A leak of 100 bytes a tab would be several times that."""


@dataclass(frozen=True)
class Left:
    """What there is when nobody is connected.

    Attributes:
        memory_kib: resident set of the gateway.
        files: its open descriptors.
        tasks: its asyncio tasks.
        sockets, topics, streams: by its own count.
        channels: subscribed at the store, by the store's count.
        clients: connected to the store, by the store's count.
    """

    memory_kib: int
    files: int
    tasks: int
    sockets: int
    topics: int
    streams: int
    channels: int
    clients: int


def _process(pid: int) -> tuple[int, int]:
    """Return a process's resident KiB and how many files it has open."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def look(gateway: Gateway, store: Store) -> Left:
    """Return what is there now."""
    memory_kib, files = _process(gateway.process.pid)
    async with httpx2.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{gateway.port}/metrics")).text
    gauges = {name: int(float(value)) for name, value in re.findall(r"(?m)^planwire_(\w+) ([\d.e+]+)$", text)}
    channels = await cast("Awaitable[list[bytes]]", store.redis.pubsub_channels("pw:*"))
    return Left(
        memory_kib,
        files,
        gauges["tasks"],
        gauges["sockets"],
        gauges["topics"],
        gauges["streams"],
        len(channels),
        len(await store.redis.client_list()),
    )


async def tab(gateway: Gateway, chance: random.Random, ends: float) -> int:
    """Come and go until the time is over; return how often."""
    sittings = 0
    while time.monotonic() < ends:
        topics = {f"user:{chance.randrange(TOPICS)}": 0 for _ in range(chance.randrange(1, 6))}
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            if chance.random() < 0.1:
                await _stream(gateway, next(iter(topics)))
                continue
            async with connect(
                f"ws://127.0.0.1:{gateway.front.port}/v1/connect",
                subprotocols=[Subprotocol("planwire.v1")],
                ping_interval=None,
                close_timeout=1,
                compression="deflate" if chance.random() < 0.5 else None,
                proxy=None,
            ) as connection:
                jwt = token(sub=f"user-{chance.randrange(10_000)}")
                await connection.send(json.dumps({"type": "hello", "token": jwt, "topics": topics, "client": "churn"}))
                for _ in range(chance.randrange(1, 12)):
                    async with asyncio.timeout(2):
                        frame = json.loads(await connection.recv())
                    if frame["type"] in ("snapshot", "patch") and frame["version"]:
                        ack = {"type": "ack", "topic": frame["topic"], "version": frame["version"]}
                        await connection.send(json.dumps(ack))
                if chance.random() < 0.3:
                    await connection.send(json.dumps({"type": "unsubscribe", "topic": next(iter(topics))}))
                if chance.random() < 0.3:
                    connection.transport.abort()
        sittings += 1
    return sittings


async def _stream(gateway: Gateway, topic: str) -> None:
    async with (
        httpx2.AsyncClient(trust_env=False) as client,
        client.stream(
            "GET",
            f"http://127.0.0.1:{gateway.front.port}/v1/state/{topic}/events",
            headers={"Authorization": f"Bearer {token()}"},
        ) as answer,
    ):
        async for _ in answer.aiter_lines():
            break


async def publish(store: Store, chance: random.Random, ends: float) -> None:
    """Change topics until the time is over."""
    number = 0
    while time.monotonic() < ends:
        number += 1
        state = json.dumps({"n": number, "pad": "x" * chance.randrange(400)}).encode()
        await store.commit(Change(f"user:{chance.randrange(TOPICS)}", state))
        await asyncio.sleep(0.002)


async def run(folder: Path, seed: int, minutes: float) -> int:
    """Churn for so long, print what was left before and after, and return 1 where that grew."""
    with start_valkey(tcp=True) as server:
        port = free_port()
        async with (
            run_proxy("127.0.0.1", server.port) as back,
            run_proxy("127.0.0.1", port) as front,
        ):
            url = f"redis://127.0.0.1:{back.port}"
            # A small cache: it is full before the counting begins.
            settings = environment(url, PORT=str(port), SOCKETS_PER_ADDRESS="100000", TOKEN_CACHE="64")
            process = Process("gateway.server", clean_environ(folder, **settings, PLANWIRE_LOG_LEVEL="error"))
            gateway = Gateway("gateway", process, port, front, back)
            store = connect_store(server.url).store
            process.start()
            try:
                await gateway.ready()
                return await _churn(gateway, store, seed, minutes * 60)
            finally:
                process.kill()
                await store.aclose()


async def _churn(gateway: Gateway, store: Store, seed: int, seconds: float) -> int:
    chance = random.Random(seed)
    for name, part in (("warming up", 0.2), ("counting", 0.8)):
        ends = time.monotonic() + seconds * part
        tabs = [tab(gateway, random.Random(f"{seed}/{name}/{index}"), ends) for index in range(TABS)]
        sittings, _ = await asyncio.gather(asyncio.gather(*tabs), publish(store, chance, ends))
        gateway.front.cut()

        async def is_quiet() -> bool:
            left = await look(gateway, store)
            return left.sockets == left.streams == left.topics == 0

        await until(is_quiet, timeout_s=30)
        left = await look(gateway, store)
        print(f"{name}: {sum(sittings)} sittings in {seconds * part:.0f} s; left: {left}", flush=True)
        if name == "warming up":
            before = left
    grown = [
        f"{field.name}: {getattr(before, field.name)} -> {getattr(left, field.name)}"
        for field in fields(Left)
        if getattr(left, field.name) - getattr(before, field.name)
        > (MEMORY_GROWTH_KIB if field.name == "memory_kib" else 0)
    ]
    print("grown: " + "; ".join(grown) if grown else "nothing has grown")
    return 1 if grown else 0
