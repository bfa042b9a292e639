"""A server dies and every tab comes back at the same instant: it lives, reads each topic once, and misses nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sync.store.store import Store
from tests.support.bodies import SECRET, signature
from tests.support.crowd import SUBJECTS, TABS, TOKENS, connect, serving
from tests.support.gateway import environment, token
from tests.support.servers import free_port
from tests.support.system import CATALOG, ago, event
from tests.support.wait import until

pytestmark = pytest.mark.slow


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
