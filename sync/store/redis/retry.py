"""Retries of a command, and connection pools that leave a server which is not the primary any more.

A managed store fails over behind one DNS name: new connections reach the new primary, but existing ones stay at the old
one, which replies `READONLY`. Such a reply closes its connection, marks all others of the pool as old, and is retried
like a lost connection. An old connection is replaced before its next use. Other clients of the same server can listen
for this (`Renewal.listen`).
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
"""Text of uvloop's RuntimeError for a write to a transport that the peer has just closed."""

HANGS_S = 1.0
"""A connection counts as hanging if a caller gives up after this time without a reply. Callers may have a shorter time
limit than the connection."""

LOG_EVERY_S = 5.0
"""Minimum time between two log lines of one pool: every command gets such a reply until the DNS name is updated."""


class CancelSafeRetry(Retry):
    """redis-py's retry, with two repairs.

    A write to a connection that has just been closed counts as a lost connection. uvloop raises a RuntimeError for it,
    which redis-py would not retry (with asyncio's transports, the read fails instead).

    An attempt does not lose a cancellation (see `cancel_guard`). Otherwise a task that uses the store in a loop might
    not end.
    """

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Return the result of `do`, with the configured number of retries.

        Raises:
            redis.exceptions.ConnectionError: the connection was lost each time.
            asyncio.CancelledError: the task was cancelled; the command may have run.
        """
        raise_if_cancelled = cancel_guard()

        async def attempt() -> T:
            try:
                return await do()
            except RuntimeError as error:
                if CLOSED not in str(error):
                    raise
                raise RedisConnectionError(str(error)) from error
            finally:
                raise_if_cancelled()

        return await super().call_with_retry(attempt, *arguments, **options)


def cancel_guard() -> Callable[[], None]:
    """Return a function that raises asyncio.CancelledError if the task has been cancelled since this call.

    redis-py sends each command with `asyncio.wait_for`. On CPython 3.11 it drops a cancellation that arrives in the
    event loop's turn in which the sending ends (bpo-37658).
    """
    task = asyncio.current_task()
    cancels = task.cancelling() if task is not None else 0

    def raise_if_cancelled() -> None:
        if task is not None and task.cancelling() > cancels:
            raise asyncio.CancelledError

    return raise_if_cancelled


async def exchange(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands and return their replies, like a pipeline of redis-py at half the cost.

    redis-py packs in Python, sets a time limit for each reply, and checks three times for instrumentation. Here the
    caller sets one time limit for all replies.

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
        finally:
            if not is_complete:  # otherwise the connection's next user would read these replies
                await connection.disconnect(nowait=True)

    async def failed(_: Exception) -> None:
        """Do nothing: the connection is closed already."""

    try:
        found: list[Any] = await connection.retry.call_with_retry(attempt, failed)
        return found
    finally:
        await pool.release(connection)


class WrongServerError(RedisConnectionError):
    """The server replied that it is not the primary. The command has not run, and the connection is closed."""


class Renewal:
    """Marks connections of one pool as old.

    Attributes:
        generation: int, raised when all existing connections are marked as old.
    """

    def __init__(self, codes: Iterable[str] = WRONG_SERVER_CODES) -> None:
        """Leave the server after a reply with one of `codes`."""
        self.codes = frozenset(codes)
        self.generation = 0
        self._listeners: list[Callable[[], None]] = []
        self._logged_at = float("-inf")

    def listen(self, on_leave: Callable[[], None]) -> None:
        """Call `on_leave` each time the server is left."""
        self._listeners.append(on_leave)

    def retire(self, generation: int) -> bool:
        """Mark all connections as old if `generation` is the present one; return whether it was."""
        if generation != self.generation:
            return False
        self.generation += 1
        return True

    def leave(self, generation: int, code: str) -> None:
        """Mark all connections as old and call the listeners: one of `generation` got the reply `code`."""
        if not self.retire(generation):
            return
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning("store_left", reply=code)
        for listener in self._listeners:
            listener()


class _Renewed(AbstractConnection):
    """The common part of all kinds of connections. `renewal` belongs to the pool."""

    def __init__(self, *, renewal: Renewal, **options: Any) -> None:
        super().__init__(**options)
        self._renewal = renewal
        self._generation = renewal.generation
        self._is_logging_in = False

    async def connect(self) -> None:
        if self.is_connected and self._generation != self._renewal.generation:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]

    async def disconnect(self, nowait: bool = False, *arguments: Any, **options: Any) -> None:
        """Close the connection; with `nowait`, drop it: TLS would wait for a goodbye of the server, which may hang."""
        writer: asyncio.StreamWriter | None = self._writer
        await super().disconnect(nowait, *arguments, **options)
        if nowait and writer is not None:
            writer.transport.abort()

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self.is_connected:
            return
        # Set before the DNS lookup: if others leave the server during this connect, the new connection counts as old.
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
            # A hanging connection was probably cut off in the network, and the idle ones of the pool with it.
            if time.monotonic() - asked_at >= HANGS_S:
                self._renewal.retire(self._generation)
            raise
        except (ResponseError, RedisConnectionError) as error:
            # redis-py's Sentinel connection raises ConnectionError for READONLY; the reply is its context.
            code = wrong_server_code(error) or wrong_server_code(error.__context__)
            # After a failed login keep the existing connections: after a password rotation they still work.
            if code not in self._renewal.codes or self._is_logging_in:
                raise
            await self.disconnect(nowait=True)
            self._renewal.leave(self._generation, code)
            if isinstance(error, RedisConnectionError):
                raise
            raise WrongServerError(f"{code} {error}") from error


class _RenewedOfSentinel(_Renewed, SentinelManagedConnection):
    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        # redis-py would reconnect to the previous address; ask the Sentinels for the present primary instead.
        if not self.is_connected:
            await self.connect_to(await self.connection_pool.get_master_address())  # type: ignore[no-untyped-call]
        await super().send_packed_command(command, check_health)


def renewing(redis: Redis, codes: Iterable[str] = WRONG_SERVER_CODES) -> Renewal:
    """Make an unused client's pool leave its server after a reply with one of `codes`; return the pool's renewal."""
    pool = redis.connection_pool
    renewal = Renewal(codes)
    kind = pool.connection_class
    base = _RenewedOfSentinel if issubclass(kind, SentinelManagedConnection) else _Renewed
    pool.connection_class = type(f"Renewed{kind.__name__}", (base, kind), {})
    pool.connection_kwargs["renewal"] = renewal
    return renewal
