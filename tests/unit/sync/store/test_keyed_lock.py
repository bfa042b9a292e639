"""One at a time per key, and nothing kept when nobody is there."""

from __future__ import annotations

import asyncio

import pytest

from sync.store.keyed_lock import KeyedLock


async def test_one_key_goes_one_at_a_time_and_others_beside_it() -> None:
    turns = KeyedLock()
    inside: dict[str, int] = {"a": 0, "b": 0}
    together = 0

    async def work(key: str) -> None:
        nonlocal together
        async with turns.of(key):
            inside[key] += 1
            assert inside[key] == 1
            together = max(together, sum(inside.values()))
            await asyncio.sleep(0)
            inside[key] -= 1

    await asyncio.gather(*(work(key) for key in "abab" * 5))
    assert together == 2
    assert len(turns) == 0


async def test_a_failure_or_cancellation_gives_the_turn_back() -> None:
    turns = KeyedLock()
    with pytest.raises(ZeroDivisionError):
        async with turns.of("a"):
            raise ZeroDivisionError
    async with turns.of("a"):
        waiting = asyncio.ensure_future(_take(turns))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert len(turns) == 1
    assert len(turns) == 0


async def _take(turns: KeyedLock) -> None:
    async with turns.of("a"):
        pass
