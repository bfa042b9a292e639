"""Retries of a command, and connection pools that leave a server which is not the primary any more.

A managed store fails over behind one DNS name: new connections reach the new primary, and those made before stay at the
old one, which answers `READONLY` for as long as they live. Such a reply ends its connection, marks all others of the
pool as old, and is retried like a lost connection. An old connection is made anew before its next use. Others that are
connected to the same server can listen (`Renewal.listen`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError, TimeoutError as RedisTimeoutError

from planwire_client.core.commit import WRONG_SERVER_CODES, wrong_server_code

T = TypeVar("T")

Command = tuple[tuple[Any, ...], Mapping[str, Any]]
"""A command's arguments, and redis-py's options for reading its reply."""

log = structlog.get_logger()

CLOSED = "the handler is closed"
"""Text of uvloop's RuntimeError for a write to a transport whose peer has just closed it."""

HANGS_S = 1.0
"""A connection hangs if it is given up after so long without a reply. Whoever asks may have a shorter time limit than
the connection."""

LOG_EVERY_S = 5.0
"""The least time between two log lines of one pool: until the name is moved, every command is answered so."""


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


async def exchange(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands and return their replies, as a pipeline of redis-py does, at half its price.

    redis-py packs in Python, sets a time limit for every single reply, and checks three times for instrumentation.

    Returns:
        The replies, in order; an error reply as an exception.

    Raises:
        redis.exceptions.ConnectionError: the connection was lost; the commands may have run.
    """
    packed = b"".join([pack_command(arguments) for arguments, _ in commands])
    callbacks: Any = redis.response_callbacks
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()

    async def attempt() -> list[Any]:
        raise_if_cancelled = cancel_guard()
        is_complete = False
        try:
            await connection.send_packed_command(packed, check_health=False)
            raise_if_cancelled()  # the caller's time limit may have passed
            replies: list[Any] = []
            async with asyncio.timeout(getattr(connection, "socket_timeout", None)):
                for arguments, options in commands:
                    try:
                        reply = await connection.read_response(timeout=math.inf)
                    except ResponseError as refusal:
                        replies.append(refusal)
                        continue
                    callback = callbacks.get(arguments[0])
                    replies.append(reply if callback is None else callback(reply, **options))
            is_complete = True
            return replies
        except TimeoutError as error:
            raise RedisTimeoutError("no reply in time") from error
        finally:
            if not is_complete:  # else the next user of the connection would read these replies
                await connection.disconnect(nowait=True)

    async def failed(_: Exception) -> None:
        """The connection is closed already."""

    try:
        found: list[Any] = await connection.retry.call_with_retry(attempt, failed)
        return found
    finally:
        await pool.release(connection)


class WrongServerError(RedisConnectionError):
    """The server said that it is not the one to ask. The command has not run, and the connection is closed."""


class Renewal:
    """Which connections of one pool are old.

    Attributes:
        generation: int, raised whenever all connections made so far became old.
    """

    def __init__(self, codes: Iterable[str] = WRONG_SERVER_CODES) -> None:
        """Leave the server on replies with one of `codes`."""
        self.codes = frozenset(codes)
        self.generation = 0
        self._listeners: list[Callable[[], None]] = []
        self._logged_at = float("-inf")

    def listen(self, on_leave: Callable[[], None]) -> None:
        """Have `on_leave` called whenever the server turned out to be the wrong one."""
        self._listeners.append(on_leave)

    def retire(self, generation: int) -> bool:
        """Make all connections old, unless they already became so since `generation`; return whether they did now."""
        if generation != self.generation:
            return False
        self.generation += 1
        return True

    def leave(self, generation: int, code: str) -> None:
        """Make all connections old because one of `generation` was answered `code`, and tell the listeners."""
        if not self.retire(generation):
            return
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning("store_left", reply=code)
        for listener in self._listeners:
            listener()


class _Renewed(AbstractConnection):
    """What every kind of connection has in common; `renewal` is its pool's."""

    def __init__(self, *, renewal: Renewal, **options: Any) -> None:
        super().__init__(**options)
        self._renewal = renewal
        self._generation = renewal.generation
        self._is_logging_in = False

    async def connect(self) -> None:
        if self.is_connected and self._generation != self._renewal.generation:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self.is_connected:
            return
        # Noted before the name is looked up: who has connected meanwhile to what others leave counts as old.
        self._generation = self._renewal.generation
        self._is_logging_in = True
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        finally:
            self._is_logging_in = False

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        asked_at = time.monotonic()
        try:
            return await super().read_response(*arguments, **options)
        except (RedisTimeoutError, asyncio.CancelledError):
            # What hangs here was cut off somewhere on the way, and the idle ones most likely with it.
            if time.monotonic() - asked_at >= HANGS_S:
                self._renewal.retire(self._generation)
            raise
        except (ResponseError, RedisConnectionError) as error:
            # redis-py's connection of a Sentinel has made a READONLY a lost connection by itself.
            code = wrong_server_code(error) or wrong_server_code(error.__context__)
            # A login that is refused says nothing about connections that are logged in: they may outlive a rotation.
            if code not in self._renewal.codes or self._is_logging_in:
                raise
            await self.disconnect(nowait=True)
            self._renewal.leave(self._generation, code)
            if isinstance(error, RedisConnectionError):
                raise
            raise WrongServerError(f"{code} {error}") from error


class _RenewedOfSentinel(_Renewed, SentinelManagedConnection):
    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        # redis-py's own goes back to the address it had; only the Sentinels know whether that is the primary still.
        if not self.is_connected:
            await self.connect_to(await self.connection_pool.get_master_address())  # type: ignore[no-untyped-call]
        await super().send_packed_command(command, check_health)


def renewing(redis: Redis, codes: Iterable[str] = WRONG_SERVER_CODES) -> Renewal:
    """Have the client's pool, which must not have been used yet, leave its server on `codes`; return its renewal."""
    pool = redis.connection_pool
    renewal = Renewal(codes)
    kind = pool.connection_class
    base = _RenewedOfSentinel if issubclass(kind, SentinelManagedConnection) else _Renewed
    pool.connection_class = type(f"Renewed{kind.__name__}", (base, kind), {})
    pool.connection_kwargs["renewal"] = renewal
    return renewal
