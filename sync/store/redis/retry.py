"""How often a command is tried again, which failures of a connection count as one, and that a cancel is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError

T = TypeVar("T")

CLOSED = "the handler is closed"
"""What uvloop's RuntimeError says of a write to a transport whose peer has gone a moment ago."""


class CancelSafeRetry(Retry):
    """redis-py's retry, for which a connection that the event loop has closed under a write is a lost connection.

    asyncio's own transports drop such a write and fail the read after it; uvloop raises a RuntimeError, which redis-py
    would pass on to whoever asked.

    No attempt loses a cancel (see `heeding`): a task that asks the store in a loop would live on, and whoever waits for
    its end would wait for ever.
    """

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Return what `do` returns, tried again as often as set.

        Raises:
            redis.exceptions.ConnectionError: the connection was lost each time.
            asyncio.CancelledError: the task was cancelled meanwhile, whatever became of the command.
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
