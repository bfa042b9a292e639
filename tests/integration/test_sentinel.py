"""A gateway on a primary that Sentinels watch: it follows them to whoever is promoted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import orjson
import pytest

from sync.store.models import Change, StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.installations import check_apart
from tests.support.sentinel import (
    DOWN_AFTER_MS,
    FAILOVER_S,
    PATIENT_MS,
    SERVICE,
    Watched,
    watched_primary,
)
from tests.support.servers import redis_binary, valkey_binary
from tests.support.wait import until

TOPIC = "tenant:acme"


@pytest.fixture(params=[redis_binary, valkey_binary], ids=["redis", "valkey"])
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A primary with a replica and three Sentinels that know of each other, of each engine."""
    with watched_primary(request.param()) as found:
        yield found


async def commit(store: Store, state: object) -> int:
    return (await store.commit(Change(TOPIC, orjson.dumps(state)))).version


async def committed(store: Store, state: object) -> int:
    """The version, or 0 while nobody takes it."""
    with contextlib.suppress(StoreError):
        return await commit(store, state)
    return 0


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_gateway_follows_the_sentinels_to_the_promoted_replica(watched: Watched, how: str) -> None:
    """Also when the old primary hangs, and its connections stay open. When it is back, it changes nothing."""
    environ = environment(watched.url, PROBE_S="0.4", SWEEP_S="1", READY_TIMEOUT_S="0.3")
    store = connect(watched.url).store
    async with run_gateway(environ) as running, open_client(running, TOPIC) as client:
        await client.until("snapshot")
        before = await commit(store, {"before": "failover"})
        assert (await client.until("snapshot"))["version"] == before
        await asyncio.to_thread(watched.down_after, DOWN_AFTER_MS)
        gone = time.monotonic()
        getattr(watched.primary, how)()
        await until(lambda: not running.node.hub.fresh)
        assert time.monotonic() - gone < 2 * 0.4 + 4, "two probe intervals, and what a busy machine adds"
        if how == "pause":
            store, hung = (
                connect(watched.url).store,
                store,
            )  # a new process: its old one's calls hang until they time out
            await hung.aclose()
        version = await until(lambda: committed(store, {"after": "failover"}), timeout_s=FAILOVER_S)
        assert version > before
        await asyncio.to_thread(watched.down_after, PATIENT_MS)
        async with asyncio.timeout(FAILOVER_S):
            frame = await client.until("snapshot", FAILOVER_S)
            assert frame["version"] == version
            assert "reset" not in frame
        await until(lambda: running.node.hub.fresh, timeout_s=FAILOVER_S)
        (watched.primary.start if how == "kill" else watched.primary.resume)()
        again = await until(lambda: committed(store, {"and": "again"}), timeout_s=FAILOVER_S)
        assert (await client.until("snapshot"))["version"] == again
        assert running.node.metrics.resets == 0
    await store.aclose()


async def test_databases_of_one_primary_know_nothing_of_each_other(watched: Watched) -> None:
    await check_apart((watched.url, "pw"), (f"{watched.url}?db=5", "pw"))


async def test_no_sentinel_and_an_unknown_service_are_clear_errors(watched: Watched) -> None:
    for url in (watched.url.replace(SERVICE, "other"), f"redis+sentinel://127.0.0.1:1/{SERVICE}"):
        connected = connect(url)
        with pytest.raises(StoreError, match="No master found for") as raised:
            await connected.store.ping()
        assert ("Connection refused" if "redis+sentinel://127.0.0.1:1/" in url else "no such service") in str(
            raised.value
        )
        assert len(str(raised.value)) < 300
        with pytest.raises(StoreError, match="sentinel: No master found for"):
            await connected.bus.endpoint("")
        await connected.store.aclose()
