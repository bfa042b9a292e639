"""Store commands and Lua scripts in one round trip. All scripts of `sync` run through this module.

A server that does not know a script (after a restart, or a new shard) replies NOSCRIPT; then the script's source is
sent. Concurrent pipelines of one store are coalesced: they share a round trip.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sync.store.coalescer import Coalescer
from sync.store.keys import Keys
from sync.store.models import StoreError, StoreRejected
from sync.store.redis import cluster_commands
from sync.store.redis.cluster_commands import ClusterRedis
from sync.store.redis.retry import exchange

Argument = bytes | str | int | float

_REJECTED = re.compile(
    r"WRONGTYPE |(?![A-Z]{4,} )(?!.*-(?!WRONGTYPE)[A-Z]{3,} )"
    r".*(?:not an integer|not a valid|overflow|exhausted|user_script)"
)
"""Errors about a stored value, not about the server: no other code stands in front, nor, as Redis before 7 wraps the
errors of a script's commands, behind a minus sign."""

REPLIES_TIMEOUT_S = 5.0
"""Maximum time of a round trip with its retries. Providers wait equally long for the answer to a webhook."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its source, and its SHA-1 digest for EVALSHA."""

    source: str
    sha: str

    @classmethod
    def load(cls, package: str, name: str) -> Script:
        """Return the script `scripts/NAME.lua` of a package."""
        source = resources.files(package).joinpath("scripts", f"{name}.lua").read_text("utf-8")
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_Command = tuple[Script | None, tuple[Argument, ...], Mapping[str, object]]

RoundTrips = Coalescer[list[_Command], list[Any]]
"""The coalescer of a store's shared pipelines; it uses `send`."""


class Connection(Protocol):
    """The members of a store that a pipeline needs."""

    redis: Redis
    keys: Keys
    round_trips: RoundTrips


class CommandPipeline:
    """Commands for one round trip. It is not a transaction: other clients' commands may run in between.

    Attributes:
        keys: the names of the store's keys.
    """

    def __init__(self, store: Connection, *, shared: bool = True) -> None:
        """Collect commands for `store`. `shared`: whether they may be coalesced with concurrent pipelines."""
        self._redis = store.redis
        self._exchange = store.round_trips.submit if shared else self._exchange_alone
        self.keys = store.keys
        self._commands: list[_Command] = []
        self._barriers: list[int] = []

    def command(self, *arguments: Argument, **options: object) -> None:
        """Add a plain command. `options`: redis-py's options for parsing the reply, if the command needs any."""
        self._commands.append((None, arguments, options))

    def script(self, script: Script, keys: Sequence[str | bytes], *arguments: Argument) -> None:
        """Add a run of a script. All keys must be in one slot."""
        self._commands.append((script, (len(keys), *keys, *arguments), {}))

    def barrier(self) -> None:
        """Send later commands only after all earlier ones have succeeded. It costs a round trip.

        A single server runs commands in order, but goes on after a failed one: when it is out of memory, an earlier
        command can fail, and a later one succeed because memory was freed in between.
        """
        self._barriers.append(len(self._commands))

    async def run(self) -> list[Any]:
        """Send the commands; return the replies, in order.

        Raises:
            StoreError: the store is unreachable, or a command failed; the others may have run.
        """
        replies: list[Any] = []
        for stop in (*self._barriers, len(self._commands)):
            if commands := self._commands[len(replies) : stop]:
                replies += await self._exchange(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise failure(reply) from reply
        return replies

    async def attempt(self) -> list[Any]:
        """Send the commands; return the replies, in order. The reply of a failed command is its exception.

        Raises:
            StoreError: the store is unreachable.
        """
        return await self._exchange(self._commands) if self._commands else []

    async def _exchange_alone(self, commands: list[_Command]) -> list[Any]:
        (answer,) = await send(self._redis, [commands])
        return answer


def failure(reply: Exception) -> StoreError:
    """Return the error for an error reply: StoreRejected if the reply is about the values of the command's keys."""
    is_rejected = type(reply) is ResponseError and _REJECTED.match(str(reply))
    return (StoreRejected if is_rejected else StoreError)(str(reply))


async def run_commands(store: Connection, *commands: Sequence[Argument]) -> list[Any]:
    """Return the replies to plain commands, sent in one round trip.

    Raises:
        StoreError: the store is unreachable, or a command failed.
    """
    pipeline = CommandPipeline(store)
    for command in commands:
        pipeline.command(*command)
    return await pipeline.run()


async def run_script(store: Connection, script: Script, keys: Sequence[str | bytes], *arguments: Argument) -> Any:
    """Return the reply to one script. All keys must be in one slot.

    Raises:
        StoreError: the store is unreachable, or the script failed.
    """
    pipeline = CommandPipeline(store)
    pipeline.script(script, keys, *arguments)
    (reply,) = await pipeline.run()
    return reply


async def send(redis: Redis, loads: Sequence[list[_Command]]) -> list[list[Any]]:
    """Return each load's replies, in order. The reply of a failed command is its exception."""
    commands = [command for load in loads for command in load]
    replies = await _execute(redis, commands, "EVALSHA")
    missed = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if missed:
        again = await _execute(redis, [commands[index] for index in missed], "EVAL")
        for index, reply in zip(missed, again, strict=True):
            replies[index] = reply
    answers: list[list[Any]] = []
    start = 0
    for load in loads:
        answers.append(replies[start : start + len(load)])
        start += len(load)
    return answers


async def _execute(redis: Redis, commands: Sequence[_Command], by: str) -> list[Any]:
    """Return the replies, in order. The reply of a failed command is its exception."""
    plain = [
        (arguments if script is None else (by, script.sha if by == "EVALSHA" else script.source, *arguments), options)
        for script, arguments, options in commands
    ]
    try:
        async with asyncio.timeout(REPLIES_TIMEOUT_S):
            if type(redis) is ClusterRedis:  # isinstance is slow: redis-py's clients are protocols
                return await cluster_commands.run(redis.nodes, plain)
            return await exchange(redis, plain)
    except (RedisError, OSError, asyncio.IncompleteReadError) as error:
        # An error without text is the time limit above.
        raise StoreError(str(error) or f"no reply within {REPLIES_TIMEOUT_S:g} s") from error
