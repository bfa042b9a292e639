"""A server dies and every tab comes back at the same instant: it lives, reads each topic once, and misses nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sync.store.store import Store
from tests.scenarios.system import CATALOG, TOPIC, ago, event
from tests.support import processes
from tests.support.bodies import SECRET, signature
from tests.support.gateway import environment, token
from tests.support.servers import free_port
from tests.support.wait import until
from tests.support.wire import TEXT, Wire, dial, encode, head

TABS = 1000
SUBJECTS = 50
TOKENS: list[str] = []


@asynccontextmanager
async def serving(
    environ: dict[str, str], data_dir: Path
) -> AsyncIterator[tuple[processes.Running, httpx2.AsyncClient]]:
    """A gateway process that answers; it is killed at the end."""
    kept = {name: value for name, value in environ.items() if name != "PLANWIRE_DATA_DIR"}
    with processes.running(
        processes.python("-m", "gateway.server"), processes.clean_environ(data_dir, **kept)
    ) as server:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{environ['PORT']}", timeout=30) as http:

            async def is_ready() -> bool:
                assert server.status() is None, server.text
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx2.TransportError:
                    return False

            await until(is_ready, 40, every_s=0.05)
            yield server, http


async def connect(stack: AsyncExitStack, port: int, number: int, held: int) -> tuple[Wire, dict[str, Any]]:
    """A tab that has said hello, and the first that it was told of the topic."""
    wire = await stack.enter_async_context(dial(port))
    hello = {"type": "hello", "token": TOKENS[number % SUBJECTS], "topics": {TOPIC: held}}
    await wire.send(head())
    assert (await wire.answer(60)).status == 101
    await wire.send(encode(TEXT, json.dumps(hello).encode()))
    while True:
        frame = json.loads((await wire.until(TEXT, 60)).payload)
        if frame["type"] == "welcome":
            assert frame["reconnect"]["max_ms"] >= 5 * TABS, "who comes back is told over what time to spread"
        elif frame.get("topic") == TOPIC and "version" in frame:
            return wire, frame


async def reads(store: Store) -> int:
    """How often the store was asked for snapshots."""
    stats: Any = await store.redis.info("commandstats")
    return int(stats.get("cmdstat_hmget", {}).get("calls", 0))


@pytest.mark.timeout(150)
async def test_s45_all_tabs_come_back_at_once_when_the_server_restarts_and_none_misses_the_newest(
    store_url: str, store: Store, tmp_path: Path
) -> None:
    """A thousand raw sockets, without the spread that a real client keeps: the worst that can be."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    port = free_port()
    environ = environment(
        store_url,
        PORT=str(port),
        INTAKE="1",
        PADDLE_SECRETS=f"live:{SECRET}",
        CATALOG=str(catalog),
        SOCKETS_PER_ADDRESS="5000",
        LOG_LEVEL="warning",
    )
    TOKENS[:] = [token(sub=f"user{number}") for number in range(SUBJECTS)]

    async def deliver(http: httpx2.AsyncClient, seats: int) -> int:
        body = event(ago(0), items=[("pri_pro", seats)])
        header = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
        answer = await http.post("/webhooks/paddle", content=body, headers=header)
        assert answer.json()["outcome"] == "applied", answer.text
        return int(answer.json()["version"])

    async with AsyncExitStack() as stack:
        server, http = await stack.enter_async_context(serving(environ, tmp_path / "one"))
        held = await deliver(http, 1)
        async with AsyncExitStack() as tabs:
            for start in range(0, TABS, 100):
                batch = [connect(tabs, port, number, 0) for number in range(start, start + 100)]
                assert {frame["version"] for _, frame in await asyncio.gather(*batch)} == {held}
            os.kill(server.process.pid, signal.SIGKILL)
            await until(lambda: server.status() is not None)
        async with serving(environ, tmp_path / "two") as (again, http), AsyncExitStack() as tabs:
            newest = await deliver(http, 2)
            before, began = await reads(store), time.monotonic()
            storm = asyncio.gather(*(connect(tabs, port, number, held) for number in range(TABS)))
            answers_s: list[float] = []
            while not storm.done():
                asked = time.monotonic()
                assert (await http.get("/healthz")).status_code == 200
                answers_s.append(time.monotonic() - asked)
                await asyncio.wait([storm], timeout=0.05)
            connected = await storm
            took_s = time.monotonic() - began
            assert [frame["version"] for _, frame in connected] == [newest] * TABS
            assert all(frame["type"] in ("snapshot", "patch") for _, frame in connected)
            assert took_s < 40
            assert max(answers_s) < 10, "alive is what answers"
            assert await reads(store) - before < 20, "one snapshot serves them all"
            assert again.status() is None
            last = await deliver(http, 3)
            for wire, _ in connected:
                frame: dict[str, Any] = {}
                while frame.get("version") != last:
                    frame = await wire.json()
