"""The store: commits changes and reads snapshots. Every version is made by commit.lua, which this module calls."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from planwire_client.core import commit
from sync.core.pauses import Pauses
from sync.store import arming, losses
from sync.store.coalescer import Coalescer
from sync.store.command_pipeline import CommandPipeline, RoundTrips, Script, failure, run_commands, send
from sync.store.delayed_queue import DelayedQueue
from sync.store.keys import DEFAULT_KEYS, Keys
from sync.store.models import ALL_FIELDS, FIELDS, Change, Committed, LogEntry, Snapshot, StoreError, snapshot_of
from sync.store.redis.cluster_commands import ClusterRedis
from sync.store.redis.slots import WHOLE, Layout, slot_of, variants

log = structlog.get_logger()

UNANNOUNCED_LOG_S = 10.0
"""Minimum time between two log lines of unannounced commits: without the rights, every commit would write one."""

_COMMIT = Script(commit.LUA, commit.SHA)
_RESTORE = Script.load(__package__, "restore")
_VERSIONS = Script.load(__package__, "versions")


class Store:
    """Commits and reads. Safe to share between tasks; one per process.

    Every method raises StoreError if the store is unreachable or failing.

    Attributes:
        redis: the client; its replies are bytes.
        keys: the names of the installation's keys and channels.
        round_trips: the coalescer of shared pipelines.
        durable: whether `wait_durable` waits.
        endpoints: the names of the endpoints that are told of tenants' changes.
        unannounced: number of commits that the store did not announce, for example because its user lacks rights to the
            channels. The commits are valid: a gateway's next sweep finds them. Until then no gateway reports itself as
            fresh, since its own canaries are not announced either.
        quiet: number of commits that changed nothing public, and maybe facts.
    """

    def __init__(
        self, redis: Redis, keys: Keys = DEFAULT_KEYS, *, durable: bool = False, endpoints: Sequence[str] = ()
    ) -> None:
        """Use `redis`. `durable`: see `wait_durable`."""
        self.redis = redis
        self.keys = keys
        self.round_trips: RoundTrips = Coalescer(partial(send, redis))
        self._cluster = redis.nodes if isinstance(redis, ClusterRedis) else None
        self.durable = durable
        self.endpoints = endpoints
        self.unannounced = 0
        self.quiet = 0
        self._unannounced_logged_at = float("-inf")

    @property
    def is_sharded(self) -> bool:
        """Whether the store is a Cluster, which announces on shard channels."""
        return self._cluster is not None

    def pipeline(self) -> CommandPipeline:
        """Return a pipeline with a round trip of its own."""
        return CommandPipeline(self, shared=False)

    def add_commit(self, pipeline: CommandPipeline, change: Change) -> None:
        """Add the commit of `change` to `pipeline`; `committed` reads the reply."""
        event_id, old = change.event_id, change.previous
        if not event_id and (change.if_version is not None or change.if_rev is not None):
            event_id = f"~{secrets.token_hex(8)}"  # otherwise a retry after a lost reply would conflict with itself
        keys, arguments = commit.keys_and_arguments(
            self.keys,
            change.topic,
            change.state,
            change.private,
            is_sharded=self._cluster is not None,
            event_id=event_id,
            order=change.order,
            if_version=change.if_version,
            cause=change.cause,
            patch=b"" if old is None else commit.patch_argument(old.version, old.state, change.state),
            owner=change.owner,
            erases=change.erases,
            if_rev=change.if_rev,
            beside=change.beside,
        )
        pipeline.script(_COMMIT, keys, *arguments)

    async def commit(self, change: Change) -> Committed:
        """Commit and announce `change`, or reject it; return its verdict."""
        try:
            (outcome,) = await self.commit_many([change])
        except StoreError as error:
            raise StoreError(f"commit of {change.topic}: {error}") from error
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome

    async def commit_many(self, changes: Sequence[Change]) -> list[Committed | StoreError]:
        """Return a verdict for each change, in order, in one round trip; a failing change does not stop the others.

        With endpoints it takes a round trip more.
        """
        await arming.arm_now(self, [change.topic for change in changes])
        pipeline, pauses = self.pipeline(), Pauses()
        for change in changes:
            self.add_commit(pipeline, change)
            await pauses.due()  # the patch of a large state takes milliseconds
        return [
            type(failure(reply))(f"commit of {change.topic}: {reply}")
            if isinstance(reply, Exception)
            else self.committed(change, reply)
            for change, reply in zip(changes, await pipeline.attempt(), strict=True)
        ]

    def committed(self, change: Change, reply: Any) -> Committed:
        """Return the result in the commit script's reply; count a commit that was not announced."""
        verdict = commit.Verdict(reply[0].decode())
        if verdict is commit.Verdict.DUPLICATE and not change.event_id:
            verdict = commit.Verdict.APPLIED  # a retry of this commit; see `add_commit`
        done = Committed(verdict, int(reply[1]), int(reply[2]), reply[3].decode() if len(reply) > 3 else "")
        self.quiet += verdict is commit.Verdict.UNCHANGED
        if done.unannounced:
            self.unannounced += 1
            now = time.monotonic()
            if now - self._unannounced_logged_at >= UNANNOUNCED_LOG_S:
                self._unannounced_logged_at = now
                log.error("commit_unannounced", topic=change.topic, error=done.unannounced, count=self.unannounced)
        return done

    async def read(self, topic: str) -> Snapshot:
        """Return the topic's snapshot with its private part."""
        return snapshot_of(topic, await self._one("HMGET", self.keys.snap(topic), *ALL_FIELDS))

    async def read_many(self, topics: Sequence[str]) -> list[Snapshot]:
        """Return the topics' snapshots, in order, without their private parts, in one round trip."""
        pipeline = self.pipeline()
        for topic in topics:
            pipeline.command("HMGET", self.keys.snap(topic), *FIELDS)
        replies = await pipeline.run()
        return [snapshot_of(topic, fields) for topic, fields in zip(topics, replies, strict=True)]

    async def versions(self, topics: Sequence[str]) -> list[int]:
        """Return the topics' newest versions, in order (0: no state), in one round trip."""
        if not topics:
            return []
        names = [self.keys.snap(topic) for topic in topics]
        pipeline = self.pipeline()
        if self._cluster is None:
            pipeline.script(_VERSIONS, names)
            (replies,) = await pipeline.run()
        else:  # a script's keys must be in one slot
            for name in names:
                pipeline.command("HMGET", name, *commit.VERSION_FIELDS)
            replies = [commit.version_of(*fields) for fields in await pipeline.run()]
        return [int(reply or 0) for reply in replies]

    async def restore(self, snapshot: Snapshot, over: int | None = None) -> bool:
        """Restore the public part and the version of `snapshot` if the stored version is older; return whether it was.

        The topic is also queued for a comparison and a search, which rebuild its private part.

        Args:
            snapshot: a gateway's snapshot.
            over: the version that must be stored, so that a commit in between stays; None: any older version.
        """
        arguments: list[bytes | str] = [str(snapshot.version), snapshot.state, snapshot.cause]
        arguments += ["" if over is None else str(over), snapshot.owner, "1" if snapshot.erased else ""]
        pipeline = self.pipeline()
        pipeline.script(_RESTORE, [self.keys.snap(snapshot.topic), self.keys.log(snapshot.topic)], *arguments)
        ((restored, _),) = await pipeline.run()
        if restored:
            await self.want_reconcile([snapshot.topic])
            await self.request(self.keys.searches, [snapshot.topic])
            await arming.arm_now(self, [snapshot.topic])
        return bool(restored)

    async def want_reconcile(self, topics: Sequence[str] | Mapping[str, int]) -> None:
        """Queue `topics` for a comparison with their provider or source; a queued topic keeps its place.

        Args:
            topics: names; or by name the newer version that a browser holds (0: none), which the store may have lost.
        """
        await self.request(self.keys.reconcile, topics)
        if isinstance(topics, Mapping) and any(topics.values()):
            await losses.weigh(self, topics)

    async def request(self, queue: str, topics: Collection[str]) -> None:
        """Add `topics` to a queue, due now; a queued topic keeps its place."""
        pipeline = self.pipeline()
        DelayedQueue(self, queue).request(pipeline, list(topics))
        await pipeline.run()

    # Two hints, which may be lost: the source has no state for a topic; a gateway subscribes to it.

    async def is_absent(self, topic: str) -> bool:
        """Return whether the source recently had no state for `topic`."""
        return bool((await run_commands(self, ("EXISTS", self.keys.absent(topic))))[0])

    async def remember_absent(self, topic: str, seconds: float) -> None:
        """Record for `seconds` that the source has no state for `topic`."""
        await run_commands(self, ("SET", self.keys.absent(topic), b"1", "PX", max(1, int(seconds * 1000))))

    async def is_watched(self, topic: str) -> bool:
        """Return whether a gateway subscribes to the topic's channel: the topic has readers."""
        servers, channel = await self.servers(), self.keys.channel(topic)
        shard = self.shard_of(topic)
        server: Any = servers.get(shard)
        if server is None:
            raise StoreError(f"readers of {topic}: nobody serves its slot")
        try:
            # A Cluster announces by shard channels only, a single server by plain ones; it may lack the other command.
            ((_, count),) = await (server.pubsub_shardnumsub(channel) if shard else server.pubsub_numsub(channel))
        except (RedisError, OSError) as error:
            raise StoreError(f"readers of {topic}: {error}") from error
        return bool(count)

    async def expire(self, topic: str, after_s: int) -> None:
        """Let the topic's state, log and event ids expire in `after_s` seconds."""
        names = (self.keys.snap(topic), self.keys.log(topic), self.keys.seen(topic))
        await run_commands(self, *(("EXPIRE", name, after_s) for name in names))

    async def log(self, topic: str, count: int = 100) -> list[LogEntry]:
        """Return the topic's newest `count` versions, newest first (about 200 are kept)."""
        entries = await self._one("XREVRANGE", self.keys.log(topic), "+", "-", "COUNT", count)
        return [LogEntry(int(fields[b"version"]), fields[b"state"], fields[b"cause"]) for _, fields in entries]

    async def publish(self, channel: str, payload: bytes) -> int:
        """Announce `payload` on a channel that is not a topic's; return the number of subscribers that received it."""
        return int(await self._one("PUBLISH" if self._cluster is None else "SPUBLISH", channel, payload))

    async def servers(self) -> dict[str, Redis]:
        """Return each primary's client by its name ("" for a single server)."""
        if self._cluster is None:
            return {"": self.redis}
        try:
            return {name: self._cluster.node(name) for name in await self._cluster.primaries()}
        except (RedisError, OSError) as error:
            raise StoreError(str(error)) from error

    @property
    def _layout(self) -> Layout | None:
        return WHOLE if self._cluster is None else self._cluster.layout

    def shard_of(self, topic: str) -> str:
        """Return the name of the topic's shard; "" if it is unknown, or for a single server."""
        layout = self._layout
        return "" if layout is None else layout.owner(slot_of(self.keys.head(topic).encode())) or ""

    def by_shard(self, topics: Sequence[str]) -> dict[str, list[str]]:
        """Return `topics` by their shard, so that an unreachable shard delays its own topics only."""
        if self._cluster is None:
            return {"": list(topics)}
        found: dict[str, list[str]] = {}
        for topic in topics:
            found.setdefault(self.shard_of(topic), []).append(topic)
        return found

    async def ping(self) -> None:
        """Return when the store has replied; in a Cluster, every primary."""
        servers = await self.servers()
        try:
            await asyncio.gather(*(cast(Awaitable[Any], server.ping()) for server in servers.values()))
        except (RedisError, OSError) as error:
            if self._cluster is not None:
                await self._cluster.refresh_quietly()
            raise StoreError(f"ping: {error}") from error

    async def wait_durable(self, timeout_s: float = 4.0) -> None:
        """Return when this client's earlier writes are in the append-only file on disk; at once if not `durable`.

        WAITAOF covers writes of its own connection only. So a marker is written before it on the same connection. The
        file is written in order: all writes with earlier replies are before the marker.

        Raises:
            StoreError: it takes longer than `timeout_s`, or the store has no append-only file.
        """
        if self.durable:
            servers = await self.servers()
            await asyncio.gather(*(self._wait_at(name, server, timeout_s) for name, server in servers.items()))

    async def _wait_at(self, shard: str, server: Redis, timeout_s: float) -> None:
        layout = self._layout
        marker = None if layout is None else layout.first_in(shard, variants(self.keys.durable))
        if marker is None:
            return  # no name found: the shard owns almost no slots
        pipeline = CommandPipeline(Store(server, self.keys), shared=False)
        pipeline.command("SET", marker, "1")
        pipeline.command("WAITAOF", 1, 0, int(timeout_s * 1000))
        _, (local, _replicas) = await pipeline.run()
        if local < 1:
            raise StoreError(f"not on disk within {timeout_s:g} s")

    async def aclose(self) -> None:
        """Close every connection."""
        await self.redis.aclose()

    async def _one(self, *command: bytes | str | int) -> Any:
        pipeline = self.pipeline()
        pipeline.command(*command)
        (reply,) = await pipeline.run()
        return reply
