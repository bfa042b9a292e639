"""The marker in the store: which builds may work on an installation's data."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sync.state import schema
from sync.state.connect import connect
from sync.state.keys import DEFAULT_KEYS as keys
from sync.state.schema import FORMAT, NEEDS, SchemaError
from sync.state.store import Store, StoreError


async def stored(store: Store) -> dict[bytes, bytes]:
    redis: Any = store.redis
    found: dict[bytes, bytes] = await redis.hgetall(keys.schema)
    return found


async def test_a_store_without_a_marker_gets_one_and_keeps_it(store: Store) -> None:
    await asyncio.gather(*(schema.mark(store) for _ in range(5)))
    assert await stored(store) == {b"format": b"%d" % FORMAT, b"needs": b"%d" % NEEDS}


async def test_a_build_that_understands_what_is_needed_leaves_a_newer_marker_as_it_is(store: Store) -> None:
    newer = {b"format": b"%d" % (FORMAT + 3), b"needs": b"%d" % FORMAT}
    redis: Any = store.redis
    await redis.hset(keys.schema, mapping=newer)
    await schema.mark(store)
    assert await stored(store) == newer


async def test_a_build_that_understands_less_is_told_so_and_changes_nothing(store: Store) -> None:
    newer = {b"format": b"%d" % (FORMAT + 3), b"needs": b"%d" % (FORMAT + 1)}
    redis: Any = store.redis
    await redis.hset(keys.schema, mapping=newer)
    with pytest.raises(SchemaError, match=f"has format {FORMAT + 1}, and this build understands up to {FORMAT}"):
        await schema.mark(store)
    assert await stored(store) == newer


async def test_installations_have_a_marker_each(store: Store, store_url: str) -> None:
    other = connect(store_url, prefix="other").store
    redis: Any = store.redis
    await redis.hset(keys.schema, "needs", FORMAT + 1)
    await schema.mark(other)
    assert (await redis.hget(other.keys.schema, "format")) == b"%d" % FORMAT
    await other.aclose()


async def test_a_store_that_is_away_says_so() -> None:
    away = connect("redis://127.0.0.1:1").store
    with pytest.raises(StoreError, match="schema"):
        await schema.mark(away)
    await away.aclose()
