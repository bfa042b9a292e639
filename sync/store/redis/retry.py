"""Retries of a command: which failures count as a lost connection, and no cancellation is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError

T = TypeVar("T")

CLOSED = "the handler is closed"
"""Text of uvloop's RuntimeError for a write to a transport whose peer has just closed it."""


class CancelSafeRetry(Retry):
    """redis-py's retry, with two repairs.

    A write to a connection that has just been closed counts as a lost connection: uvloop raises a RuntimeError for it,
    which redis-py would pass on (asyncio's transports fail the read instead).

    No attempt loses a cancellation (see `cancel_guard`): a task that asks the store in a loop would never end.
    """

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Return the result of `do`, repeated as often as set.

        Raises:
            redis.exceptions.ConnectionError: the connection was lost each time.
            asyncio.CancelledError: the task was cancelled meanwhile; the command may have run.
        """
        heed = cancel_guard()

        async def told() -> T:
            try:
                return await do()
            except RuntimeError as error:
                if CLOSED not in str(error):
                    raise
                raise RedisConnectionError(str(error)) from error
            finally:
                heed()

        return await super().call_with_retry(told, *arguments, **options)


def cancel_guard() -> Callable[[], None]:
    """Return a function that raises asyncio.CancelledError if the task was cancelled since.

    redis-py sends each command under `asyncio.wait_for`, which on CPython 3.11 drops a cancel that arrives in the turn
    of the event loop in which the sending ends (bpo-37658).
    """
    task = asyncio.current_task()
    cancels = task.cancelling() if task is not None else 0

    def heed() -> None:
        if task is not None and task.cancelling() > cancels:
            raise asyncio.CancelledError

    return heed
