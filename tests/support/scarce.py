"""A store that is out of memory at one moment: `maxmemory` is hit just before a chosen command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from planwire_client.core import commit
from sync.store import command_pipeline
from sync.store.redis.retry import Command, exchange

NONE: Command = (("CONFIG", "SET", "maxmemory", "1"), {})
ALL: Command = (("CONFIG", "SET", "maxmemory", "0"), {})

Send = Callable[[Any, list[Command]], Any]


class Scarcity:
    """When the store has no memory. `seen`: number of billing's commands so far."""

    def __init__(self, at: int, until: int) -> None:
        self._at, self._until = at, until
        self.seen = 0

    async def exchange(self, send: Send, redis: Any, commands: list[Command]) -> list[Any]:
        """Send `commands`, and between them what takes the memory away and gives it back."""
        sent: list[tuple[Command, bool]] = []
        for command in commands:
            if is_billing(command):
                if self.seen in (self._at, self._until):
                    sent.append((NONE if self.seen == self._at else ALL, False))
                self.seen += 1
            sent.append((command, True))
        replies = await send(redis, [command for command, _ in sent])
        return [reply for reply, (_, is_own) in zip(replies, sent, strict=True) if is_own]


def is_billing(command: Command) -> bool:
    """Whether a command is one of the intake or the worker, and not a gateway's probe or sweep."""
    arguments = command[0]
    text = " ".join(str(part) for part in arguments[:6])
    return "/live" in text or ":events" in text or (commit.SHA in text and "tenant:" in text)


@contextmanager
def out_of_memory(patch: pytest.MonkeyPatch, at: int, until: int) -> Iterator[Scarcity]:
    """Let the store have no memory from billing's command number `at` on, and again from number `until` on."""
    scarcity = Scarcity(at, until)
    with patch.context() as patched:
        patched.setattr(
            command_pipeline, "exchange", lambda redis, commands: scarcity.exchange(exchange, redis, commands)
        )
        yield scarcity
