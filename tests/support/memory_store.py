"""A store in memory that runs the real Lua scripts, with a clock that a test may set: no server, no file, no network.

It is fakeredis behind the real `Store`. The same contract tests hold for it and for real servers (`store_contract`).
What it cannot do: WAITAOF, sharded pub/sub, eviction, and everything that has to do with connections.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import fakeredis
from fakeredis import _helpers
from fakeredis._socket import _base
from fakeredis.commands_mixins import scripting_mixin, server_mixin
from fakeredis.model import _stream
from redis.asyncio import Redis

from sync.store.keys import DEFAULT_KEYS, Keys
from sync.store.store import Store

START_US = 1_795_395_356_406_607
"""Where the clock of unit tests stands at first: microseconds since 1970."""


class Clock:
    """The store's clock. It runs with the machine's until `set` or `advance` is called; from then on it stands."""

    def __init__(self) -> None:
        self._now_us: int | None = None

    def now_us(self) -> int:
        """Return the store's time: microseconds since 1970."""
        return time.time_ns() // 1000 if self._now_us is None else self._now_us

    def set(self, now_us: int) -> None:
        """Stop the clock at an instant."""
        self._now_us = now_us

    def advance(self, seconds: float) -> None:
        """Stop the clock `seconds` later than it shows."""
        self._now_us = self.now_us() + round(seconds * 1_000_000)


def _sha1hex(value: Any) -> bytes:
    text = value if isinstance(value, bytes) else str(value).encode()
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


_runtime_of = scripting_mixin.ScriptingCommandsMixin._get_server_runtime


def _runtime(self: Any, server: Any) -> Any:
    """Return the Lua runtime of a server, with `redis.sha1hex`, which fakeredis 2.41 gives to functions only."""
    runtime = _runtime_of(self, server)
    runtime.globals()[b"redis"][b"sha1hex"] = _sha1hex
    return runtime


@contextmanager
def memory_redis(clock: Clock) -> Iterator[Redis]:
    """Yield a client of an empty store in memory; within the block every fakeredis reads `clock`."""
    machine = SimpleNamespace(**{name: getattr(time, name) for name in ("monotonic", "sleep", "perf_counter")})
    machine.time = lambda: clock.now_us() / 1_000_000
    with ExitStack() as patches:
        for module in (_base, server_mixin, _helpers, _stream):
            patches.enter_context(mock.patch.object(module, "time", machine))
        patches.enter_context(
            mock.patch.object(scripting_mixin.ScriptingCommandsMixin, "_get_server_runtime", _runtime)
        )
        yield cast(Redis, fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(server_type="valkey", version=(8,))))


@contextmanager
def memory_store(clock: Clock | None = None, keys: Keys = DEFAULT_KEYS) -> Iterator[Store]:
    """Yield a store in memory."""
    with memory_redis(clock or Clock()) as redis:
        yield Store(redis, keys)
