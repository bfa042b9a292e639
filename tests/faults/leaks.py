"""Tabs connect, subscribe, receive versions and leave, again and again; then what they leave behind is measured.

Measured are the gateway process (resident memory, open files, tasks, sockets, topics) and the store's counts of clients
and subscribed channels. The run has laps; the first laps do not count, because caches fill and arenas grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from planwire_client.http import NO_ANSWER
from sync.store.models import Change
from sync.store.redis.connect import connect as connect_store
from sync.store.store import Store
from tests.faults.rig import Gateway, Process
from tests.support.gateway import environment, token
from tests.support.processes import clean_environ
from tests.support.proxy import run_proxy
from tests.support.servers import free_port, start_valkey
from tests.support.wait import until

TABS = 60
TOPICS = 200

LAPS = 20
"""Number of laps. After each, all tabs leave and the remains are measured."""

WARM_LAPS = 4
"""Laps that do not count: caches fill, arenas grow, pools open the connections that they need at peak."""

POOL = {"files": 2, "clients": 2}
"""Allowed extra connections to the store: the pool keeps its peak. A leak exceeds this."""

LEAK_BYTES = 64
"""Allowed growth per connection: below the smallest object in a dictionary, which takes about 100 bytes."""

NOISE_KIB = 1024
"""Allowed growth in the second half of the run, attributed to the allocator and not to tabs."""


@dataclass(frozen=True)
class Left:
    """What is left when no tab is connected.

    Attributes:
        memory_kib: resident memory of the gateway without mapped files.
        files: its open descriptors.
        tasks: its asyncio tasks.
        sockets, topics, streams: by the gateway's own count.
        channels: subscribed channels, by the store's count.
        clients: connected clients, by the store's count.
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
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def look(gateway: Gateway, store: Store) -> Left:
    """Return the current figures."""
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
    """Connect and leave until the time is over. Return how often."""
    sittings = 0
    while time.monotonic() < ends:
        topics = {f"user:{chance.randrange(TOPICS)}": 0 for _ in range(chance.randrange(1, 6))}
        with contextlib.suppress(OSError, WebSocketException, TimeoutError, httpx2.HTTPError, *NO_ANSWER):
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
    """Churn for the given time, print what was left before and after, and return 1 if it grew."""
    with start_valkey(tcp=True) as server:
        port = free_port()
        async with (
            run_proxy("127.0.0.1", server.port) as back,
            run_proxy("127.0.0.1", port) as front,
        ):
            url = f"redis://127.0.0.1:{back.port}"
            # A small cache, so that it is full before the counted laps.
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
    """Let tabs connect and leave lap by lap, measure after each lap, and judge."""
    chance = random.Random(seed)
    looks: list[tuple[int, Left]] = []
    done = 0
    for lap in range(LAPS):
        ends = time.monotonic() + seconds / LAPS
        tabs = [tab(gateway, random.Random(f"{seed}/{lap}/{index}"), ends) for index in range(TABS)]
        sittings, _ = await asyncio.gather(asyncio.gather(*tabs), publish(store, chance, ends))
        gateway.front.cut()
        done += sum(sittings)

        async def is_quiet() -> bool:
            left = await look(gateway, store)
            return left.sockets == left.streams == left.topics == 0

        await until(is_quiet, timeout_s=30, every_s=0.2)
        looks.append((done, await look(gateway, store)))
        print(
            f"{datetime.now(UTC):%H:%M:%S} lap {lap + 1} of {LAPS}, {done} sittings; left: {looks[-1][1]}", flush=True
        )
    before, level, after = looks[WARM_LAPS - 1][1], looks[LAPS // 2 - 1][1], looks[-1][1]
    print(
        f"memory KiB: {looks[0][1].memory_kib} after the first lap, {before.memory_kib} warm,"
        f" {level.memory_kib} half-way, {after.memory_kib} at the end;"
        f" {slope(looks[LAPS // 2 - 1 :]) * 1024:.0f} bytes a sitting in the second half"
    )
    wrong = grown(looks)
    said = "grown: " + "; ".join(wrong) if wrong else f"nothing has grown in {done} sittings"
    print(f"{said} (seed {seed})")
    return 1 if wrong else 0


def slope(looks: Sequence[tuple[int, Left]]) -> float:
    """Return the growth of memory in KiB per connection: the median slope between any two measurements (Theil-Sen)."""
    points = [(done, left.memory_kib) for done, left in looks]
    return statistics.median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(points, 2)
        if later[0] > earlier[0]
    )


def grown(looks: Sequence[tuple[int, Left]]) -> list[str]:
    """Return what has grown over the measurements (connections so far, remains), as sentences. The first do not count.

    Memory is judged by its slope over the second half: an allocator levels off, a leak does not. Every other figure may
    at the end not exceed its maximum in the uncounted laps, except connections by POOL.
    """
    wrong = []
    warm, half = [left for _, left in looks[:WARM_LAPS]], looks[len(looks) // 2 - 1 :]
    for field in fields(Left):
        if field.name != "memory_kib":
            most = max(getattr(left, field.name) for left in warm)
            least = min(getattr(left, field.name) for _, left in looks[-2:])
            if least > most + POOL.get(field.name, 0):
                wrong.append(f"{field.name}: {most} -> {least}")
    sittings = half[-1][0] - half[0][0]
    growth_kib = slope(half) * sittings
    if growth_kib > max(NOISE_KIB, LEAK_BYTES * sittings / 1024):
        wrong.append(f"memory_kib: by {growth_kib:.0f} in the last {sittings} sittings")
    return wrong
