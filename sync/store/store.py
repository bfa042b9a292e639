"""The store: commits changes, reads snapshots. The one writer of versions is commit.lua; this module only calls it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from planwire_client.core import commit
from sync.core.pauses import Pauses
from sync.store.keys import DEFAULT_KEYS, Keys
from sync.store.models import (
    ABSENT as ABSENT,
)
from sync.store.models import (
    FIELDS as FIELDS,
)
from sync.store.models import (
    Change as Change,
)
from sync.store.models import (
    Committed as Committed,
)
from sync.store.models import (
    LogEntry as LogEntry,
)
from sync.store.models import (
    Snapshot as Snapshot,
)
from sync.store.models import (
    StoreError as StoreError,
)
from sync.store.models import (
    Verdict as Verdict,
)
from sync.store.models import (
    snapshot_of as snapshot_of,
)
from sync.store.redis.slots import slot_of, variants
from sync.store.unannounced import Unannounced

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

    from sync.store.redis.cluster import Cluster


def _lua(name: str) -> str:
    return resources.files(__package__).joinpath("scripts", name).read_text("utf-8")


COMMIT_LUA = commit.LUA
"""The commit script's source; any backend with a Redis connection may load it and commit straight to the store."""


def patch_argument(change: Change) -> bytes:
    """Return the commit script's patch argument: the change from `change.previous`, or empty."""
    previous = change.previous
    return b"" if previous is None else commit.patch_argument(previous.version, previous.state, change.state)


def _event_id(change: Change) -> str:
    """The change's dedupe key. One that is bound to a version gets a key of its own: sent twice, because its first
    answer was lost, it would be told `conflict` with itself."""
    if change.event_id or (change.if_version is None and change.if_rev is None):
        return change.event_id
    return f"~{secrets.token_hex(8)}"


class Store:
    """Commits and reads. Safe to share between tasks; one per process."""

    def __init__(
        self, redis: Redis, keys: Keys = DEFAULT_KEYS, *, cluster: Cluster | None = None, durable: bool = False
    ) -> None:
        """Use `redis` (which answers bytes); `cluster`: what it stands for, if one. `durable`: see `wait_durable`."""
        self.redis = redis
        self.keys = keys
        self._cluster = cluster
        self._durable = durable
        self._commit = redis.register_script(COMMIT_LUA)
        self._restore = redis.register_script(_lua("restore.lua"))
        self._versions = redis.register_script(_lua("versions.lua"))
        self.unannounced = Unannounced()

    @property
    def durable(self) -> bool:
        """Whether `wait_durable` waits."""
        return self._durable

    def arguments(self, change: Change) -> tuple[list[str], list[bytes | str]]:
        """Return the keys and arguments that COMMIT_LUA commits `change` with; `committed` reads what it answers."""
        return commit.keys_of(self.keys, change.topic), commit.arguments_of(
            self.keys,
            change.topic,
            change.state,
            change.private,
            is_sharded=self._cluster is not None,
            event_id=_event_id(change),
            order=change.order,
            if_version=change.if_version,
            cause=change.cause,
            patch=patch_argument(change),
            owner=change.owner,
            erases=change.erases,
            if_rev=change.if_rev,
        )

    async def commit(self, change: Change) -> Committed:
        """Return what became of `change`, once it is committed and announced, or refused.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        script_keys, arguments = self.arguments(change)
        try:
            return self.committed(change, await self.run(self._commit, script_keys, arguments))
        except (RedisError, OSError) as error:
            raise StoreError(f"commit of {change.topic}: {error}") from error

    async def commit_many(self, changes: Sequence[Change]) -> list[Committed | StoreError]:
        """Return a verdict for each change, in order, in one round trip; a failing change does not stop the others."""
        given, pauses = [], Pauses()
        for change in changes:
            given.append(self.arguments(change))
            await pauses.due()  # the patch of a large state takes milliseconds
        replies = await self._pipelined(given)
        missed = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:
            # A restarted store has forgotten the script; sending the source makes it know it again.
            again = await self._pipelined([given[index] for index in missed], by_source=True)
            for index, reply in zip(missed, again, strict=True):
                replies[index] = reply
        return [
            StoreError(f"commit of {change.topic}: {reply}")
            if isinstance(reply, Exception)
            else self.committed(change, reply)
            for change, reply in zip(changes, replies, strict=True)
        ]

    def committed(self, change: Change, reply: Any) -> Committed:
        """Return what COMMIT_LUA answered to a change's `arguments`; a commit that was not announced is counted."""
        done = _committed(change, reply)
        if done.unannounced:
            self.unannounced.note(change.topic, done.unannounced)
        return done

    async def _pipelined(
        self, given: Sequence[tuple[list[str], list[bytes | str]]], *, by_source: bool = False
    ) -> list[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        run = ("EVAL", COMMIT_LUA) if by_source else ("EVALSHA", self._commit.sha)
        for script_keys, arguments in given:
            pipeline.execute_command(*run, len(script_keys), *script_keys, *arguments)
        return await self._execute(pipeline)

    async def run(self, script: AsyncScript, script_keys: Sequence[str], arguments: Sequence[bytes | str] = ()) -> Any:
        """The script's reply; it is sent by its source where the server does not know it. On a Cluster each has to."""
        given = (len(script_keys), *script_keys, *arguments)
        try:
            return await cast(Any, self.redis).execute_command("EVALSHA", script.sha, *given)
        except NoScriptError:
            return await cast(Any, self.redis).execute_command("EVAL", script.script, *given)

    async def read(self, topic: str) -> Snapshot:
        """Return the topic's snapshot with its private part.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hmget(self.keys.snap(topic), [*FIELDS, "private"])
        (fields,) = self._values(await self._execute(pipeline))
        return snapshot_of(topic, fields)

    async def read_many(self, topics: Sequence[str]) -> list[Snapshot]:
        """Return the topics' snapshots, in order, without their private parts, in one round trip.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        for topic in topics:
            pipeline.hmget(self.keys.snap(topic), FIELDS)
        replies = self._values(await self._execute(pipeline))
        return [snapshot_of(topic, fields) for topic, fields in zip(topics, replies, strict=True)]

    async def versions(self, topics: Sequence[str]) -> list[int]:
        """Return the topics' newest versions, in order (0: no state), in one round trip.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if not topics:
            return []
        names = [self.keys.snap(topic) for topic in topics]
        if self._cluster is not None:
            # The script's keys lie in one slot each.
            pipeline = self.redis.pipeline(transaction=False)
            for name in names:
                pipeline.hget(name, "version")
            return [int(reply or 0) for reply in self._values(await self._execute(pipeline))]
        try:
            return [int(reply) for reply in await self.run(self._versions, names)]
        except (RedisError, OSError) as error:
            raise StoreError(f"versions: {error}") from error

    async def restore(self, snapshot: Snapshot, over: int | None = None) -> bool:
        """Return whether the public `snapshot` was put back, version kept: only where the store holds an older one.

        over: and only if that is this version; what has been committed meanwhile stands.

        The topic is marked for reconcile, which rebuilds its private part.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        arguments: list[bytes | str] = [str(snapshot.version), snapshot.state, snapshot.cause]
        arguments += ["" if over is None else str(over), snapshot.owner, "1" if snapshot.erased else ""]
        try:
            restored, _ = await self.run(
                self._restore, [self.keys.snap(snapshot.topic), self.keys.log(snapshot.topic)], arguments
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
        pipeline.zadd(self.keys.reconcile, dict.fromkeys(topics, now), nx=True)
        self._values(await self._execute(pipeline))

    async def expire(self, topic: str, after_s: int) -> None:
        """Let all of the topic's keys go `after_s` seconds from now.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        for key in (self.keys.snap(topic), self.keys.log(topic), self.keys.seen(topic)):
            pipeline.expire(key, after_s)
        self._values(await self._execute(pipeline))

    async def log(self, topic: str, count: int = 100) -> list[LogEntry]:
        """Return the topic's newest `count` versions, newest first (about 200 are kept).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.xrevrange(self.keys.log(topic), count=count)
        (entries,) = self._values(await self._execute(pipeline))
        return [LogEntry(int(fields[b"version"]), fields[b"state"], fields[b"cause"]) for _, fields in entries]

    async def publish(self, channel: str, payload: bytes) -> int:
        """Announce `payload` on a channel that is not a topic's, to whoever listens now; return how many that are.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.execute_command("PUBLISH" if self._cluster is None else "SPUBLISH", channel, payload)
        (heard,) = self._values(await self._execute(pipeline))
        return int(heard)

    async def servers(self) -> dict[str, Redis]:
        """Return a client of each primary by its name ("" where there is one server only), to be asked about itself.

        Raises:
            StoreError: no node of the Cluster tells.
        """
        if self._cluster is None:
            return {"": self.redis}
        try:
            return {name: self._cluster.node(name) for name in await self._cluster.primaries()}
        except (RedisError, OSError) as error:
            raise StoreError(str(error)) from error

    def shard_of(self, topic: str) -> str:
        """Return the name of the shard that keeps a topic; "" where it is not known, or there is one server only."""
        layout = None if self._cluster is None else self._cluster.layout
        return "" if layout is None else layout.owner(slot_of(self.keys.head(topic).encode())) or ""

    def by_shard(self, topics: Sequence[str]) -> dict[str, list[str]]:
        """Return `topics` by the shard that keeps them, so that one that is away holds up its own topics only."""
        if self._cluster is None:
            return {"": list(topics)}
        found: dict[str, list[str]] = {}
        for topic in topics:
            found.setdefault(self.shard_of(topic), []).append(topic)
        return found

    async def ping(self) -> None:
        """Return when the store has answered; of a Cluster every primary.

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
        if self._cluster is None:
            await self._wait_at(self.redis, self.keys.durable, timeout_s)
            return
        try:
            shards = await self._cluster.primaries()
        except (RedisError, OSError) as error:
            raise StoreError(str(error)) from error
        await asyncio.gather(*(self._wait_at_shard(self._cluster, shard, timeout_s) for shard in shards))

    async def _wait_at_shard(self, cluster: Cluster, shard: str, timeout_s: float) -> None:
        layout = await cluster.refresh() if cluster.layout is None else cluster.layout
        marker = layout.first_in(shard, variants(self.keys.durable))
        if marker is not None:  # else it owns next to nothing
            await self._wait_at(cluster.node(shard), marker, timeout_s)

    async def _wait_at(self, redis: Redis, marker: str, timeout_s: float) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.set(marker, "1")
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


def _committed(change: Change, reply: Any) -> Committed:
    verdict = Verdict(reply[0].decode())
    if verdict is Verdict.DUPLICATE and not change.event_id:
        verdict = Verdict.APPLIED  # of its own first sending; see _event_id
    return Committed(verdict, int(reply[1]), int(reply[2]), reply[3].decode() if len(reply) > 3 else "")
