"""How often a command is tried again, and which failures of a connection count as one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError

T = TypeVar("T")

CLOSED = "the handler is closed"
"""What uvloop's RuntimeError says of a write to a transport whose peer has gone a moment ago."""


class Patience(Retry):
    """redis-py's retry, for which a connection that the event loop has closed under a write is a lost connection.

    asyncio's own transports drop such a write and fail the read after it; uvloop raises a RuntimeError, which redis-py
    would pass on to whoever asked.
    """

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Return what `do` returns, tried again as often as set.

        Raises:
            redis.exceptions.ConnectionError: the connection was lost each time.
        """

        async def told() -> T:
            try:
                return await do()
            except RuntimeError as error:
                if CLOSED not in str(error):
                    raise
                raise RedisConnectionError(str(error)) from error

        return await super().call_with_retry(told, *arguments, **options)
