"""The store: commits changes, reads snapshots. The one writer of versions is commit.lua; this module only calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from sync.errors import SyncError
from sync.state import canonical, keys, merge_patch


def _lua(name: str) -> str:
    return resources.files("sync.state").joinpath(name).read_text("utf-8")


COMMIT_LUA = _lua("commit.lua")
"""The commit script's source; any backend with a Redis connection may load it and commit straight to the store."""

ABSENT = b"null"
"""The state of a topic that has none."""


class StoreError(SyncError):
    """The store could not be reached, or refused. Nothing can be said about whether a commit happened: retry it with
    the same event id."""


class Verdict(StrEnum):
    """What became of a change."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    STALE = "stale"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Committed:
    """A verdict and the topic's version after the call: microseconds since 1970, or 0 where it has no state."""

    verdict: Verdict
    version: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A topic's newest committed version as raw JSON bytes. Without state: version 0, state `null`, the rest empty."""

    topic: str
    version: int
    state: bytes
    private: bytes
    cause: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit is asked to do.

    Attributes:
        topic: the topic's name, already checked.
        state: the whole public state, canonical JSON.
        private: the backend-only part, canonical JSON or empty.
        event_id: dedupe key, remembered for seven days; empty for none.
        order: refused as stale unless bytewise greater than the stored token; empty for none.
        if_version: refused as conflict unless this is the stored version (0: no state yet).
        cause: JSON object telling why, or empty.
        previous: the snapshot the caller read before, from which a merge patch is made; None for no patch.
    """

    topic: str
    state: bytes
    private: bytes = b""
    event_id: str = ""
    order: str = ""
    if_version: int | None = None
    cause: bytes = b""
    previous: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version of a topic's history: its public state and cause as raw JSON bytes."""

    version: int
    state: bytes
    cause: bytes


def order_token(order: int | str) -> str:
    """Return the bytewise comparable token of a caller's order value: integers zero-padded to 20 digits."""
    return f"{order:020d}" if isinstance(order, int) else order


def patch_argument(change: Change) -> bytes:
    """Return commit.lua's patch argument: `BASE PATCH` where a merge patch exists and is smaller, else empty."""
    previous = change.previous
    if previous is None or previous.version == 0:
        return b""
    patch = merge_patch.diff(canonical.decode(previous.state), canonical.decode(change.state))
    if patch is None:
        return b""
    encoded = canonical.encode(patch)
    return b"%d %b" % (previous.version, encoded) if len(encoded) < len(change.state) else b""


class Store:
    """Commits and reads. Safe to share between tasks; one per process."""

    def __init__(self, redis: Redis, *, sharded: bool = False, durable: bool = False) -> None:
        """Use `redis` (which answers bytes). `sharded`: announce with SPUBLISH; `durable`: see `wait_durable`."""
        self.redis = redis
        self._announce = b"SPUBLISH" if sharded else b"PUBLISH"
        self._durable = durable
        self._commit = redis.register_script(COMMIT_LUA)
        self._restore = redis.register_script(_lua("restore.lua"))
        self._versions = redis.register_script(_lua("versions.lua"))

    def _arguments(self, change: Change) -> tuple[list[str], list[bytes | str]]:
        topic = change.topic
        return [keys.snap(topic), keys.log(topic), keys.seen(topic)], [
            self._announce,
            keys.slot(topic),
            change.state,
            change.private,
            change.event_id,
            change.order,
            "" if change.if_version is None else str(change.if_version),
            change.cause,
            patch_argument(change),
        ]

    async def commit(self, change: Change) -> Committed:
        """Return what became of `change`, once it is committed and announced, or refused.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        script_keys, arguments = self._arguments(change)
        try:
            return _committed(await self._commit(keys=script_keys, args=arguments))
        except (RedisError, OSError) as error:
            raise StoreError(f"commit of {change.topic}: {error}") from error

    async def commit_many(self, changes: Sequence[Change]) -> list[Committed | StoreError]:
        """Return a verdict for each change, in order, in one round trip; a failing change does not stop the others."""
        replies = await self._pipelined(changes)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # A restarted store has forgotten the script: load it and send again those that did not run.
            await cast(Awaitable[Any], self.redis.script_load(COMMIT_LUA))
            missed = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            for index, reply in zip(missed, await self._pipelined([changes[i] for i in missed]), strict=True):
                replies[index] = reply
        return [
            StoreError(f"commit of {change.topic}: {reply}") if isinstance(reply, Exception) else _committed(reply)
            for change, reply in zip(changes, replies, strict=True)
        ]

    async def _pipelined(self, changes: Sequence[Change]) -> list[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        for change in changes:
            script_keys, arguments = self._arguments(change)
            pipeline.evalsha(self._commit.sha, len(script_keys), *script_keys, *arguments)
        return await self._execute(pipeline)

    async def read(self, topic: str) -> Snapshot:
        """Return the topic's snapshot with its private part.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hmget(keys.snap(topic), ["version", "state", "cause", "private"])
        (fields,) = self._values(await self._execute(pipeline))
        return _snapshot(topic, fields)

    async def read_many(self, topics: Sequence[str]) -> list[Snapshot]:
        """Return the topics' snapshots, in order, without their private parts, in one round trip.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        for topic in topics:
            pipeline.hmget(keys.snap(topic), ["version", "state", "cause"])
        replies = self._values(await self._execute(pipeline))
        return [_snapshot(topic, fields) for topic, fields in zip(topics, replies, strict=True)]

    async def versions(self, topics: Sequence[str]) -> list[int]:
        """Return the topics' newest versions, in order (0: no state), in one round trip.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if not topics:
            return []
        try:
            return [int(reply) for reply in await self._versions(keys=[keys.snap(topic) for topic in topics])]
        except (RedisError, OSError) as error:
            raise StoreError(f"versions: {error}") from error

    async def restore(self, snapshot: Snapshot) -> bool:
        """Return whether the public `snapshot` was put back, version kept: only where the store holds an older one.

        The topic is marked for reconcile, which rebuilds its private part.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        arguments: list[bytes | str] = [str(snapshot.version), snapshot.state, snapshot.cause]
        try:
            restored, _ = await self._restore(
                keys=[keys.snap(snapshot.topic), keys.log(snapshot.topic)], args=arguments
            )
        except (RedisError, OSError) as error:
            raise StoreError(f"restore of {snapshot.topic}: {error}") from error
        if restored:
            await self.want_reconcile([snapshot.topic])
        return bool(restored)

    async def want_reconcile(self, topics: Sequence[str]) -> None:
        """Ask whoever computes `topics` to compare them with their provider soon; asking twice is asking once.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        now = time.time()
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.zadd(keys.RECONCILE, dict.fromkeys(topics, now), nx=True)
        self._values(await self._execute(pipeline))

    async def expire(self, topic: str, after_s: int) -> None:
        """Let all of the topic's keys go `after_s` seconds from now.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        for key in (keys.snap(topic), keys.log(topic), keys.seen(topic)):
            pipeline.expire(key, after_s)
        self._values(await self._execute(pipeline))

    async def log(self, topic: str, count: int = 100) -> list[LogEntry]:
        """Return the topic's newest `count` versions, newest first (about 200 are kept).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.xrevrange(keys.log(topic), count=count)
        (entries,) = self._values(await self._execute(pipeline))
        return [LogEntry(int(fields[b"version"]), fields[b"state"], fields[b"cause"]) for _, fields in entries]

    async def ping(self) -> None:
        """Return when the store has answered.

        Raises:
            StoreError: it did not.
        """
        try:
            await cast(Awaitable[Any], self.redis.ping())
        except (RedisError, OSError) as error:
            raise StoreError(f"ping: {error}") from error

    async def wait_durable(self, timeout_s: float = 4.0) -> None:
        """Return when everything this connection pool wrote before is in the append-only file on disk.

        Only with `durable`; otherwise returns at once. WAITAOF speaks for its own connection alone, so a marker write
        goes ahead of it on the same one: the file is written in order, and what was answered before lies before it.

        Raises:
            StoreError: not within `timeout_s`, or the store keeps no append-only file.
        """
        if not self._durable:
            return
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.set("pw:durable", "1")
        pipeline.execute_command("WAITAOF", 1, 0, int(timeout_s * 1000))
        _, (local, _replicas) = self._values(await self._execute(pipeline))
        if local < 1:
            raise StoreError(f"not on disk within {timeout_s:g} s")

    async def aclose(self) -> None:
        """Close every connection."""
        await self.redis.aclose()

    async def _execute(self, pipeline: Any) -> list[Any]:
        try:
            async with pipeline:
                return cast(list[Any], await pipeline.execute(raise_on_error=False))
        except (RedisError, OSError, asyncio.IncompleteReadError) as error:
            raise StoreError(str(error) or type(error).__name__) from error

    @staticmethod
    def _values(replies: Iterable[Any]) -> list[Any]:
        values = list(replies)
        for value in values:
            if isinstance(value, Exception):
                raise StoreError(str(value)) from value
        return values


def _committed(reply: Any) -> Committed:
    return Committed(Verdict(reply[0].decode()), int(reply[1]))


def _snapshot(topic: str, fields: Sequence[bytes | None]) -> Snapshot:
    if fields[0] is None:
        return Snapshot(topic, 0, ABSENT, b"", b"")
    return Snapshot(
        topic, int(fields[0]), fields[1] or ABSENT, (fields[3] or b"") if len(fields) > 3 else b"", fields[2] or b""
    )
