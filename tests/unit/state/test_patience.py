"""A connection that the event loop closed under a write is a lost one: tried again, and not a fault of ours."""

from __future__ import annotations

import pytest
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from sync.state.patience import CLOSED, Patience


async def attempts(times: int, text: str) -> tuple[int, int]:
    """How often a command was tried that fails `times` over, and how often that was told."""
    tried = told = 0

    async def do() -> str:
        nonlocal tried
        tried += 1
        if tried <= times:
            raise RuntimeError(text)
        return "done"

    async def fail(error: Exception) -> None:
        nonlocal told
        assert isinstance(error, RedisConnectionError)
        told += 1

    assert await Patience(NoBackoff(), 3).call_with_retry(do, fail) == "done"
    return tried, told


async def test_a_closed_transport_is_tried_again() -> None:
    assert await attempts(2, f"unable to perform operation on <TCPTransport closed=True>; {CLOSED}") == (3, 2)


async def test_more_often_than_set_it_is_a_lost_connection() -> None:
    with pytest.raises(RedisConnectionError, match=CLOSED):
        await attempts(9, CLOSED)


async def test_what_else_goes_wrong_is_not_covered_up() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        await attempts(1, "something else")
