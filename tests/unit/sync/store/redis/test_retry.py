"""A connection that the event loop closed under a write is a lost one, tried again; a cancel is never lost."""

from __future__ import annotations

import asyncio

import pytest
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from sync.store.redis.retry import CLOSED, CancelSafeRetry


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

    assert await CancelSafeRetry(NoBackoff(), 3).call_with_retry(do, fail) == "done"
    return tried, told


async def test_a_closed_transport_is_tried_again() -> None:
    assert await attempts(2, f"unable to perform operation on <TCPTransport closed=True>; {CLOSED}") == (3, 2)


async def test_more_often_than_set_it_is_a_lost_connection() -> None:
    with pytest.raises(RedisConnectionError, match=CLOSED):
        await attempts(9, CLOSED)


async def test_what_else_goes_wrong_is_not_covered_up() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        await attempts(1, "something else")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancel_that_comes_as_a_command_ends_is_not_lost(fails: bool) -> None:
    """Cancelled in the very turn in which the sending ends: `asyncio.wait_for` of CPython 3.11 says nothing of it."""
    loop = asyncio.get_running_loop()
    commands = 0

    async def do() -> None:
        nonlocal commands
        commands += 1
        sent = loop.create_future()

        def end() -> None:
            sent.set_result(None)
            if commands == 2:
                task.cancel()

        loop.call_soon(end)
        await asyncio.wait_for(sent, 5)
        if fails and commands == 2:
            raise RedisConnectionError("lost")

    async def fail(error: Exception) -> None: ...

    async def ask_for_ever() -> None:
        while True:
            await CancelSafeRetry(NoBackoff(), 2).call_with_retry(do, fail)
            assert commands < 9

    task = asyncio.create_task(ask_for_ever())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert commands == 2


async def test_a_bound_set_around_a_command_is_told_as_one() -> None:
    """What `asyncio.timeout` cancels is its own: it comes out as TimeoutError, and nothing is left cancelled."""

    async def fail(error: Exception) -> None: ...

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await CancelSafeRetry(NoBackoff(), 0).call_with_retry(asyncio.Event().wait, fail)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
