"""Several store commands and scripts in one round trip, shared with whoever else asks meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sync.store.coalescer import Coalescer
from sync.store.redis.cluster_client import ClusterRedis
from sync.store.redis.retry import cancel_guard
from sync.store.store import Store, StoreError

Argument = bytes | str | int | float

REPLIES_TIMEOUT_S = 5.0
"""How long a round trip may take altogether, retries included: providers wait as long for our answer."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its source and the digest by which a store that has it runs it."""

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> Script:
        """Return the script of this source."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, package: str, name: str) -> Script:
        """Return the script `scripts/NAME.lua` of a package."""
        return cls.of(resources.files(package).joinpath("scripts", f"{name}.lua").read_text("utf-8"))


_Command = tuple[Script | None, tuple[Argument, ...], Mapping[str, object]]
_Told = tuple[tuple[Argument, ...], Mapping[str, object]]


class Batch:
    """Commands for one round trip. Not a transaction: others may come between, and one may fail alone."""

    def __init__(self, store: Store) -> None:
        """Collect commands for `store`; `keys` are the names of its keys."""
        self._redis = store.redis
        self.keys = store.keys
        self._commands: list[_Command] = []
        self._stops: list[int] = []

    def command(self, *arguments: Argument, **options: object) -> None:
        """Add a plain command; `options` tell redis-py how to read its reply, where arguments alone do not."""
        self._commands.append((None, arguments, options))

    def script(self, script: Script, keys: Sequence[str], *arguments: Argument) -> None:
        """Add a script's run; all keys lie in one slot."""
        self._commands.append((script, (len(keys), *keys, *arguments), {}))

    def then(self) -> None:
        """Have what is added from now on sent only when all before it has succeeded.

        One server takes commands in their order, which is enough; the shards of a Cluster work side by side.
        """
        if isinstance(self._redis, ClusterRedis):
            self._stops.append(len(self._commands))

    async def run(self) -> list[Any]:
        """Return the replies, in order.

        Raises:
            StoreError: the store is unreachable, or refused one of them; the others may have run.
        """
        replies: list[Any] = []
        for stop in (*self._stops, len(self._commands)):
            if commands := self._commands[len(replies) : stop]:
                replies += await self._carried(commands)
        return replies

    async def _carried(self, commands: list[_Command]) -> list[Any]:
        replies = await _convoy(self._redis).submit(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreError(str(reply)) from reply
        return replies


async def run_commands(store: Store, *commands: Sequence[Argument]) -> list[Any]:
    """Return the replies to plain commands, sent in one round trip.

    Raises:
        StoreError: the store is unreachable, or refused one of them.
    """
    batch = Batch(store)
    for command in commands:
        batch.command(*command)
    return await batch.run()


_convoys: WeakKeyDictionary[Redis, Coalescer[list[_Command], list[Any]]] = WeakKeyDictionary()
"""One for each connection to a store, as long as that is used."""


def _convoy(redis: Redis) -> Coalescer[list[_Command], list[Any]]:
    coalescer = _convoys.get(redis)
    if coalescer is None:
        coalescer = _convoys[redis] = Coalescer(partial(_send, weakref.proxy(redis)), _given_up)
    return coalescer


def _given_up() -> StoreError:
    return StoreError("whoever sent it along was stopped")


async def _send(redis: Redis, loads: Sequence[list[_Command]]) -> list[list[Any] | Exception]:
    """Return each load's replies; a command that failed has its exception for one."""
    commands = [command for load in loads for command in load]
    replies = await _execute(redis, commands, "EVALSHA")
    missed = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if missed:
        # A restarted store has forgotten its scripts; sending the source makes it know them again.
        again = await _execute(redis, [commands[index] for index in missed], "EVAL")
        for index, reply in zip(missed, again, strict=True):
            replies[index] = reply
    answers: list[list[Any] | Exception] = []
    start = 0
    for load in loads:
        answers.append(replies[start : start + len(load)])
        start += len(load)
    return answers


async def _execute(redis: Redis, commands: Sequence[_Command], by: str) -> list[Any]:
    """Return the replies; a command that was refused has its exception for one."""
    told = [
        (arguments if script is None else (by, script.sha if by == "EVALSHA" else script.source, *arguments), options)
        for script, arguments, options in commands
    ]
    try:
        async with asyncio.timeout(REPLIES_TIMEOUT_S):
            if not isinstance(redis, ClusterRedis):
                return await _exchange(redis, told)
            async with redis.pipeline(transaction=False) as pipeline:
                for arguments, options in told:
                    pipeline.execute_command(*arguments, **options)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
                return replies
    except (RedisError, OSError, asyncio.IncompleteReadError) as error:
        raise StoreError(str(error) or type(error).__name__) from error


async def _exchange(redis: Redis, told: Sequence[_Told]) -> list[Any]:
    """Send commands and read their replies, as a pipeline of redis-py does, at half its price.

    That packs in Python, sets a time limit for every single reply, and looks three times whether somebody measures it.
    """
    packed = b"".join([pack_command(arguments) for arguments, _ in told])  # type: ignore[arg-type] # any length will do
    callbacks: Any = redis.response_callbacks
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()

    async def attempt() -> list[Any]:
        heed = cancel_guard()
        await connection.send_packed_command(packed, check_health=False)
        heed()  # what is read now has no bound but the caller's, which may have run out while it was sent
        replies: list[Any] = []
        for arguments, options in told:
            try:
                reply = await connection.read_response(timeout=math.inf)
            except ResponseError as refusal:
                replies.append(refusal)
                continue
            callback = callbacks.get(arguments[0])
            replies.append(reply if callback is None else callback(reply, **options))
        return replies

    async def failed(_: Exception) -> None:
        await connection.disconnect(nowait=True)

    try:
        found: list[Any] = await connection.retry.call_with_retry(attempt, failed)
        return found
    finally:
        await pool.release(connection)
