"""Usage in web processes without an intake: they have no catalog, and a worker computes what they show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sync import bootstrap
from sync.settings import SyncSettings
from sync.store.command_pipeline import run_commands
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.usage.refreshes import UsageRefreshes
from sync.usage.wiring import usage_calls
from sync.worker import Worker
from tests.integration.test_usage import ask, entitle, gateway, shown
from tests.integration.test_usage_calls import CATALOG
from tests.support.gateway import environment, open_client, run_gateway, token
from tests.support.servers import Server, start_valkey
from tests.support.usage import end_window
from tests.support.wait import until


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


@asynccontextmanager
async def working(store: Store, server: Server, tmp_path: Path) -> AsyncIterator[None]:
    """A worker for web processes without a catalog."""
    path = tmp_path / "worker.toml"
    path.write_text(CATALOG)
    environ = environment(server.url, CATALOG=str(path), PADDLE_SECRETS="live:pdl_ntfset_x")
    settings = SyncSettings.from_env(environ)
    services = await bootstrap.build_services(store, settings)
    calls = usage_calls(store, services.current_catalog, settings)
    worker = Worker(services, ("live",), poll_s=0.02, usage=UsageRefreshes(store, ("live",), calls))
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task
        await services.aclose()


async def test_a_page_sees_usage_limits_and_windows_of_now(store: Store, server: Server, tmp_path: Path) -> None:
    web = environment(server.url, SWEEP_S="0.2")
    async with run_gateway(web) as running, open_client(running, "usage:acme", jwt=token("tenant:acme")) as page:
        async with working(store, server, tmp_path), gateway(server, tmp_path) as counting:
            await shown(page, used=0, limit=3)
            await entitle(store, api_calls=10)
            await shown(page, used=0, limit=10)
            await ask(counting, "/api_calls/consume", {"amount": 7})
            await shown(page, used=7, limit=10)
        await entitle(store, api_calls=20)
        await end_window(store, "acme", "api_calls", used=7)
        async with working(store, server, tmp_path):
            state = await shown(page, used=0, limit=20)
    assert state["entitlements"] == (await store.read("tenant:acme")).version


async def test_what_the_store_has_lost_comes_back_from_such_a_process(
    store: Store, server: Server, tmp_path: Path
) -> None:
    web = environment(server.url, SWEEP_S="0.2")
    async with (
        run_gateway(web) as running,
        working(store, server, tmp_path),
        open_client(running, "usage:acme", jwt=token("tenant:acme")) as page,
    ):
        await entitle(store, api_calls=10)
        async with gateway(server, tmp_path) as counting:
            await ask(counting, "/api_calls/consume", {"amount": 1})
            await shown(page, used=1)
            # Without the queue: what the worker had claimed then, it would not be given for a while.
            kept = {key: await store.redis.dump(key) async for key in store.redis.scan_iter("pw:{tenant:acme}*")}
            await ask(counting, "/api_calls/consume", {"amount": 7})
            await shown(page, used=8)
        await store.redis.flushall()
        for key, value in kept.items():
            if isinstance(value, bytes):  # else it had ended after it was listed
                await store.redis.restore(key, 0, value)

        async def is_back() -> bool:
            (count,) = await run_commands(store, ("HGET", store.keys.usage("tenant:acme", "meters"), "api_calls:count"))
            return bool(count.startswith(b"8 "))

        await until(is_back)
        assert await store.redis.get(store.keys.usage("tenant:acme", "lost")) is None


async def test_tenants_of_another_worker_s_environment_are_left_to_it(
    store: Store, server: Server, tmp_path: Path
) -> None:
    await store.request(store.keys.usage_wanted, ["sandbox/tenant:acme", "tenant:acme"])
    async with working(store, server, tmp_path):

        async def is_live_done() -> bool:
            return bool(await store.redis.zcard(store.keys.usage_wanted) == 1)

        await until(is_live_done)
    assert await store.redis.zrange(store.keys.usage_wanted, 0, -1) == [b"sandbox/tenant:acme"]
    assert (await store.read("usage:acme")).version
    assert not (await store.read("sandbox/usage:acme")).version
