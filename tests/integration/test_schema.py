"""The marker in the store: which builds may work on an installation's data."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from planwire_client.core.commit import FORMAT
from sync.store.checks.inspection import NEEDS, SchemaError, mark_schema
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.gateway import environment, run_gateway
from tests.support.processes import clean_environ, python, running
from tests.support.servers import start_valkey
from tests.support.wait import until


async def stored(store: Store) -> dict[bytes, bytes]:
    redis: Any = store.redis
    found: dict[bytes, bytes] = await redis.hgetall(keys.schema)
    return found


async def test_a_store_without_a_marker_gets_one_and_keeps_it(store: Store) -> None:
    await asyncio.gather(*(mark_schema(store) for _ in range(5)))
    assert await stored(store) == {b"format": b"%d" % FORMAT, b"needs": b"%d" % NEEDS}


async def test_a_build_that_understands_what_is_needed_leaves_a_newer_marker_as_it_is(store: Store) -> None:
    newer = {b"format": b"%d" % (FORMAT + 3), b"needs": b"%d" % FORMAT}
    redis: Any = store.redis
    await redis.hset(keys.schema, mapping=newer)
    await mark_schema(store)
    assert await stored(store) == newer


async def test_a_build_that_understands_less_is_told_so_and_changes_nothing(store: Store) -> None:
    newer = {b"format": b"%d" % (FORMAT + 3), b"needs": b"%d" % (FORMAT + 1)}
    redis: Any = store.redis
    await redis.hset(keys.schema, mapping=newer)
    with pytest.raises(SchemaError, match=f"has format {FORMAT + 1}, and this build understands up to {FORMAT}"):
        await mark_schema(store)
    assert await stored(store) == newer


async def test_installations_have_a_marker_each(store: Store, store_url: str) -> None:
    other = connect(store_url, prefix="other").store
    redis: Any = store.redis
    await redis.hset(keys.schema, "needs", FORMAT + 1)
    await mark_schema(other)
    assert (await redis.hget(other.keys.schema, "format")) == b"%d" % FORMAT
    await other.aclose()


@pytest.mark.parametrize("module", ["gateway.server", "sync.worker", "sync.outbox"])
async def test_no_process_starts_on_data_that_needs_a_newer_build(
    store: Store, store_url: str, module: str, tmp_path: Path
) -> None:
    redis: Any = store.redis
    await redis.hset(keys.schema, "needs", FORMAT + 1)
    environ = clean_environ(tmp_path, **environment(store_url, OUTBOX_URL="postgresql://nobody@127.0.0.1:1/none"))
    with running(python("-m", module), environ) as program:
        await until(lambda: program.has_ended, timeout_s=20)
    assert program.status() == 2
    (line,) = program.lines
    assert f"has format {FORMAT + 1}, and this build understands up to {FORMAT}" in line


async def test_a_gateway_whose_store_comes_later_marks_it_then() -> None:
    with start_valkey(tcp=True) as server:
        server.kill()
        async with run_gateway(environment(server.url, PROBE_S="0.1"), until_fresh=False) as gateway:
            await asyncio.to_thread(server.start)
            store = gateway.node.store
            await until(lambda: found(store), timeout_s=20)


async def test_a_gateway_whose_store_comes_later_with_a_newer_format_ends(tmp_path: Path) -> None:
    with start_valkey(tcp=True, aof=True) as server:
        other = connect(server.url).store
        redis: Any = other.redis
        await redis.hset(keys.schema, "needs", FORMAT + 1)
        await other.aclose()
        server.kill()
        environ = clean_environ(tmp_path, **environment(server.url, PROBE_S="0.1", LOG_FORMAT="text"))
        with running(python("-m", "gateway.server"), environ) as program:
            await until(lambda: "listening" in program.text, timeout_s=20)
            await asyncio.to_thread(server.start)
            await until(lambda: program.has_ended, timeout_s=30)
        assert program.status() not in (0, None)
        assert f"has format {FORMAT + 1}" in program.text


async def found(store: Store) -> bool:
    """Whether there is a marker; a store that is away has none."""
    with contextlib.suppress(RedisError):
        return bool(await stored(store))
    return False


async def test_a_store_that_is_away_says_so() -> None:
    away = connect("redis://127.0.0.1:1").store
    with pytest.raises(StoreError, match="schema"):
        await mark_schema(away)
    await away.aclose()
