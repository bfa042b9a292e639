"""Several store commands and scripts in one round trip. It knows no keys and keeps nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from sync.state.store import StoreError

Argument = bytes | str | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its source and the digest by which a store that has it runs it."""

    source: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Script:
        """Return the script `NAME.lua` of this package."""
        source = resources.files("sync.billing").joinpath("lua", f"{name}.lua").read_text("utf-8")
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_Command = tuple[Script | None, tuple[Argument, ...], Mapping[str, object]]


class Batch:
    """Commands for one round trip. Not a transaction: others may come between, and one may fail alone."""

    def __init__(self, redis: Redis) -> None:
        """Collect commands for `redis`."""
        self._redis = redis
        self._commands: list[_Command] = []

    def command(self, *arguments: Argument, **options: object) -> None:
        """Add a plain command; `options` tell redis-py how to read its reply, where arguments alone do not."""
        self._commands.append((None, arguments, options))

    def script(self, script: Script, keys: Sequence[str], *arguments: Argument) -> None:
        """Add a script's run; all keys lie in one slot."""
        self._commands.append((script, (len(keys), *keys, *arguments), {}))

    async def run(self) -> list[Any]:
        """Return the replies, in order.

        Raises:
            StoreError: the store is unreachable, or refused one of them; the others may have run.
        """
        replies = await self._send(self._commands, "EVALSHA")
        missed = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:
            # A restarted store has forgotten its scripts; sending the source makes it know them again.
            for index, reply in zip(missed, await self._send([self._commands[i] for i in missed], "EVAL"), strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreError(str(reply)) from reply
        return replies

    async def _send(self, commands: Sequence[_Command], by: str) -> list[Any]:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for script, arguments, options in commands:
                    if script is None:
                        pipeline.execute_command(*arguments, **options)
                    else:
                        pipeline.execute_command(by, script.sha if by == "EVALSHA" else script.source, *arguments)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
                return replies
        except (RedisError, OSError, asyncio.IncompleteReadError) as error:
            raise StoreError(str(error) or type(error).__name__) from error
