"""The store's contract, on the embedded Valkey and on Debian's redis-server: verdicts, versions, announcements."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from planwire_client.core.commit import PUBLISHER, order_token
from sync.store.models import Change, Snapshot, StoreError, Verdict
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.servers import Server, start_redis, start_valkey
from tests.support.store_contract import TOPIC, Another, StoreContract, numbers
from tests.support.wait import until

STARTERS = {"valkey": start_valkey, "redis": start_redis}


@pytest.fixture(params=sorted(STARTERS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A fresh server of each kind."""
    with STARTERS[request.param]() as server:
        yield server


@pytest.fixture
def store_url(server: Server) -> str:
    return server.url


@pytest.fixture
def another(server: Server) -> Another:
    return partial(Redis.from_url, server.url)


class TestServers(StoreContract):
    """Each kind of server keeps the contract."""


# The other verdicts, and which comes first.


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiled English locale, in which "a" sorts before "B"."""
    folder = tmp_path_factory.mktemp("locales")
    localedef = shutil.which("localedef")
    assert localedef is not None, "localedef belongs to libc-bin"
    subprocess.run([localedef, "-i", "en_US", "-f", "UTF-8", folder / "en_US.UTF-8"], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("kind", sorted(STARTERS))
async def test_order_tokens_are_compared_bytewise_whatever_the_servers_language(
    kind: str, locales: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lua compares strings by the server's LC_COLLATE."""
    monkeypatch.setenv("LOCPATH", str(locales))
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    with STARTERS[kind]() as server:
        store = connect(server.url).store
        assert await store.redis.eval("return 'a' < 'B' and 1 or 0", 0) == 1, "the server does not speak English"
        await store.commit(Change(TOPIC, b'{"a":1}', order="B"))
        assert (await store.commit(Change(TOPIC, b'{"a":2}', order="a"))).verdict is Verdict.APPLIED
        assert (await store.commit(Change(TOPIC, b'{"a":3}', order="B"))).verdict is Verdict.STALE
        await store.aclose()


# Many at once.


async def test_of_many_writers_one_wins_each_version(server: Server) -> None:
    """Compare-and-set from many connections: every increment is made exactly once."""
    stores = [connect(server.url).store for _ in range(8)]
    await stores[0].commit(Change(TOPIC, b"0"))
    wins: list[int] = []

    async def add(store: Store, times: int) -> None:
        while times:
            snapshot = await store.read(TOPIC)
            state = b"%d" % (int(snapshot.state) + 1)
            done = await store.commit(Change(TOPIC, state, if_version=snapshot.version))
            if done.verdict is Verdict.APPLIED:
                wins.append(done.version)
                times -= 1
            else:
                assert done.verdict is Verdict.CONFLICT

    await asyncio.gather(*(add(store, 10) for store in stores))
    assert (await stores[0].read(TOPIC)).state == b"80"
    assert len(set(wins)) == 80
    for store in stores:
        await store.aclose()


# A store that is away.


async def every_call_fails(store: Store) -> None:
    snapshot = Snapshot(TOPIC, 5, b"1", b"", b"")
    calls = {
        "commit": lambda: store.commit(Change(TOPIC, b"1")),
        "commit_many": lambda: store.commit_many([Change(TOPIC, b"1")]),
        "read": lambda: store.read(TOPIC),
        "read_many": lambda: store.read_many([TOPIC]),
        "versions": lambda: store.versions([TOPIC]),
        "restore": lambda: store.restore(snapshot),
        "want_reconcile": lambda: store.want_reconcile([TOPIC]),
        "expire": lambda: store.expire(TOPIC, 1),
        "log": lambda: store.log(TOPIC),
        "ping": store.ping,
    }

    async def fails(name: str) -> str | None:
        try:
            result = await calls[name]()
        except StoreError:
            return None
        if name == "commit_many":
            assert isinstance(result, list)
            return None if all(isinstance(one, StoreError) for one in result) else name
        return name

    assert [name for name in await asyncio.gather(*map(fails, calls)) if name is not None] == []


async def test_every_call_on_a_killed_store_raises_store_error_and_works_again_after(
    store: Store, server: Server
) -> None:
    await store.commit(Change(TOPIC, b"1"))
    server.kill()
    await every_call_fails(store)
    with pytest.raises(StoreError, match=f"commit of {TOPIC}: .*refused"):
        await store.commit(Change(TOPIC, b"1"))
    server.restart()
    assert (await store.commit(Change(TOPIC, b"2"))).verdict is Verdict.APPLIED


async def test_every_call_on_a_frozen_store_raises_store_error_in_bounded_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.store.redis.connect.SOCKET_TIMEOUT_S", 0.1)
    store = connect(server.url).store
    states = numbers()

    async def is_applied() -> bool:
        """Whether it takes a commit: a server that only was slow to answer may have done so for the call before."""
        with contextlib.suppress(StoreError):
            return (await store.commit(Change(TOPIC, next(states)))).verdict is Verdict.APPLIED
        return False

    await until(is_applied)
    server.pause()
    with monkeypatch.context() as patch:
        patch.setattr("sync.store.command_pipeline.REPLIES_TIMEOUT_S", 0.1)
        started = time.monotonic()
        await every_call_fails(store)
        assert time.monotonic() - started < 5
        with pytest.raises(StoreError, match=f"commit of {TOPIC}: no reply within 0.1 s"):
            await store.commit(Change(TOPIC, next(states)))
    server.resume()
    await until(is_applied)
    await store.aclose()


async def test_a_store_that_refuses_to_write_is_a_store_error_and_changes_nothing(store: Store) -> None:
    await store.commit(Change(TOPIC, b"1", event_id="e"))
    await store.redis.config_set("maxmemory", "1")
    with pytest.raises(StoreError):
        await store.commit(Change(TOPIC, b"2"))
    (refused,) = await store.commit_many([Change(TOPIC, b"2")])
    assert isinstance(refused, StoreError)
    assert (await store.read(TOPIC)).state == b"1"


# On disk.


async def test_durable_waits_for_the_append_only_file_and_survives_a_kill() -> None:
    with start_valkey(aof=True, args=["--appendfsync", "everysec"]) as server:
        store = connect(server.url, durable=True).store
        done = await store.commit(Change(TOPIC, b"1", event_id="e"))
        await store.wait_durable()
        server.kill()
        server.restart()
        assert await store.read(TOPIC) == Snapshot(TOPIC, done.version, b"1", b"", b"", done.rev, PUBLISHER)
        assert (await store.commit(Change(TOPIC, b"1", event_id="e"))).verdict is Verdict.DUPLICATE
        await store.aclose()


@pytest.mark.parametrize("kind", sorted(STARTERS))
async def test_durable_on_a_store_that_keeps_no_file_is_an_error(kind: str) -> None:
    with STARTERS[kind]() as server:
        store = connect(server.url, durable=True).store
        await store.commit(Change(TOPIC, b"1"))
        with pytest.raises(StoreError):
            await store.wait_durable(0.2)
        await store.aclose()


# The scripts themselves.


def test_order_tokens_of_integers_compare_as_integers() -> None:
    values = [0, 1, 9, 10, 99, 2**53, 10**19]
    assert [order_token(value) for value in values] == sorted(order_token(value) for value in values)
    assert order_token("as-is") == "as-is"
    assert len(order_token(10**19)) == 20
