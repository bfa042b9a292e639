"""Publishing straight to the store: the gateways' own commit script, run by this process. Needs the extra `store`.

What the gateway checks before it commits is checked here.
Larger states are published with what they replace, so that tabs get merge patches; the script drops a patch whose base
is not what is stored by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from planwire_client.change import Answers, Outcome, Publish, Published, Rejected, Send, Trouble, check, encode
from planwire_client.core import commit
from planwire_client.core.commit import Verdict
from planwire_client.core.failover import wrong_server_code
from planwire_client.core.names import Names, PrefixError, check_prefix
from planwire_client.errors import PlanwireError, PublishRefused

try:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.cluster
except ImportError as error:  # pragma: no cover - told to people who left the extra out
    raise ImportError(
        "publishing straight to the store needs the extra: pip install 'planwire-client[store]'"
    ) from error

log = logging.getLogger("planwire_client")

BILLED = "billing computes this topic: publish under another name, or grant what it should have beside the plan"

PATCH_MIN_BYTES = 1024
"""States below it get no merge patch: reading the stored one costs more than the patch saves."""

KEY_AT, STATE_AT, PATCH_AT = 3, 6 + commit.STATE_AT, 6 + commit.PATCH_AT
"""Where the key of the topic's hash, the state and the patch stand in a command."""

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0

Command = list[bytes | str | int]


def options() -> dict[str, Any]:
    """Return how a connection behaves: it gives up soon, since a call is repeated by its event id, not by redis-py."""
    return {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}


DEFAULT_NAMES = Names()


def names_of(client: object, prefix: str) -> Names:
    """Return the names that an installation with `prefix` has in the database that `client` speaks to.

    Raises:
        PlanwireError: `prefix` cannot be one.
    """
    try:
        check_prefix(prefix)
    except PrefixError as error:
        raise PlanwireError(str(error)) from None
    pool = getattr(client, "connection_pool", None)
    database = getattr(pool, "connection_kwargs", {}).get("db") if pool is not None else 0
    return Names(prefix, int(database or 0))


class Batch:
    """One round trip: the commands of those items that may be sent, and where the others' refusals go. Pure.

    `reads`: the commands of a round trip before it, whose replies go into `complete`.
    """

    def __init__(
        self, items: Sequence[Publish], source: str, now: float, is_sharded: bool = False, names: Names = DEFAULT_NAMES
    ) -> None:
        self._items = items
        self._refused: dict[int, Rejected] = {}
        self.commands: list[Command] = []
        self.reads: list[Command] = []
        self._replacing: list[Command] = []
        received_at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
        for index, item in enumerate(items):
            try:
                self.commands.append(_command(item, source, received_at.replace("+00:00", "Z"), is_sharded, names))
            except PublishRefused as refusal:
                self._refused[index] = Rejected(item.topic, refusal.code, refusal.detail)
        self._plan_reads()

    def _plan_reads(self) -> None:
        seen = set()
        for command in self.commands:
            state, key = command[STATE_AT], command[KEY_AT]
            assert isinstance(state, bytes), "encode made it"
            # Of several of a topic only the first replaces what is stored.
            if len(state) >= PATCH_MIN_BYTES and key not in seen:
                self.reads.append(["HMGET", key, "version", "state"])
                self._replacing.append(command)
            seen.add(key)

    def complete(self, replies: Sequence[object]) -> None:
        """Add the patches from what is stored, given the replies to `reads`; what could not be read gets none."""
        for command, reply in zip(self._replacing, replies, strict=True):
            state = command[STATE_AT]
            if isinstance(reply, list) and reply[0] is not None and isinstance(state, bytes):
                command[PATCH_AT] = commit.patch_argument(int(reply[0]), reply[1] or b"null", state)

    def answers(self, replies: Sequence[object]) -> Answers:
        """Return every item's outcome, given the replies to the commands."""
        left = iter(replies)
        return Answers(
            [self._refused.get(index) or _outcome(item, next(left)) for index, item in enumerate(self._items)]
        )


def _command(item: Publish, source: str, received_at: str, is_sharded: bool, names: Names) -> Command:
    check(item)
    cause = {"source": source, "event_id": item.event_id, "received_at": received_at, **(item.cause or {})}
    keys = commit.keys_of(names, item.topic)
    arguments = commit.arguments_of(
        names,
        item.topic,
        encode("state", item.state),
        b"" if item.private is None else encode("private", item.private),
        is_sharded=is_sharded,
        event_id=item.event_id or "",
        order="" if item.order is None else commit.order_token(item.order),
        if_version=item.if_version,
        cause=orjson.dumps(cause),
    )
    return ["EVALSHA", commit.SHA, len(keys), *keys, *arguments]


def _outcome(item: Publish, reply: object) -> Outcome:
    if isinstance(reply, Exception):
        return Rejected(item.topic, "store_unavailable", str(reply))
    verdict, version, _, *unannounced = cast("tuple[bytes | str, ...]", reply)
    if unannounced:
        log.warning("%s was committed, but the store would not announce it: %s", item.topic, unannounced[0])
    text = verdict.decode() if isinstance(verdict, bytes) else verdict
    if text == "billed":
        return Rejected(item.topic, "topic_is_billed", BILLED)
    return Published(item.topic, Verdict(text), int(version), item.event_id or "")


def _is_forgotten(replies: Sequence[object]) -> bool:
    """Whether the store has been restarted since, and no longer knows the script.

    What did not run is a refusal for now, and is sent again by `deliver`, which knows what must not follow what.
    """
    return any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies)


def is_cluster(url: str) -> bool:
    """Whether the URL is a Cluster's: `redis+cluster://[user:password@]host:port[,host:port...]`, or rediss+cluster."""
    return urlsplit(url).scheme in ("redis+cluster", "rediss+cluster")


def _seeds(url: str) -> tuple[str, list[tuple[str, int]]]:
    """A Cluster's URL as redis-py reads it, of its first node, and the other nodes."""
    split = urlsplit(url)
    login, at, hosts = split.netloc.rpartition("@")
    first, *others = hosts.split(",")
    seeds = [(host, int(port or 6379)) for host, _, port in (other.partition(":") for other in others)]
    return split._replace(scheme=split.scheme.partition("+")[0], netloc=login + at + first).geturl(), seeds


def open_cluster(url: str) -> redis.RedisCluster:
    """Return a client of the Cluster.

    Raises:
        redis.exceptions.RedisClusterException: none of its nodes answers.
    """
    one, others = _seeds(url)
    nodes = [redis.cluster.ClusterNode(host, port) for host, port in others]  # type: ignore[no-untyped-call]
    return redis.RedisCluster.from_url(one, startup_nodes=nodes, **options())


def open_cluster_async(url: str) -> redis.asyncio.RedisCluster:
    """Return the same for asyncio; it connects on first use."""
    one, others = _seeds(url)
    nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in others]
    return redis.asyncio.RedisCluster.from_url(one, startup_nodes=nodes, **options())


_TROUBLES = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError)


class StoreTransport:
    """A blocking connection pool to the store.

    Args:
        client: of one server or of a Cluster, or what makes it on first use.
        source: what causes say it came from.
        prefix: the installation's PLANWIRE_PREFIX.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster | Callable[[], redis.Redis | redis.RedisCluster],
        source: str = "backend",
        prefix: str = "pw",
    ) -> None:
        self._prefix = check_prefix(prefix)
        self._open = None if isinstance(client, redis.Redis | redis.RedisCluster) else client
        self._client = client if isinstance(client, redis.Redis | redis.RedisCluster) else None
        self._source = source
        self._is_loaded = False

    @property
    def _redis(self) -> redis.Redis | redis.RedisCluster:
        if self._client is None:
            assert self._open is not None
            self._client = self._open()
        return self._client

    def send(self, step: Send, now: float) -> Answers | Trouble:
        """Return the script's verdicts, or that the store could not be asked."""
        try:
            is_sharded = isinstance(self._redis, redis.RedisCluster)
            names = names_of(self._redis, self._prefix)
            batch = Batch(step.items, self._source, now, is_sharded, names)
            if not self._is_loaded:
                self._redis.script_load(commit.LUA)
                self._is_loaded = True
            batch.complete(self._run(batch.reads))
            replies = self._run(batch.commands)
        except _TROUBLES as error:
            self._distrust()
            return Trouble(f"store: {error}")
        if any(map(wrong_server_code, replies)):
            self._distrust()
        self._is_loaded = not _is_forgotten(replies)
        return batch.answers(replies)

    def _distrust(self) -> None:
        """Drop every idle connection, so that the next attempt looks up the server's name. A Cluster says MOVED."""
        if isinstance(self._client, redis.Redis):
            self._client.connection_pool.disconnect(inuse_connections=False)

    def _run(self, commands: Sequence[Command]) -> list[object]:
        if not commands:
            return []
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return cast(list[object], pipeline.execute(raise_on_error=False))

    def close(self) -> None:
        """Close every connection."""
        if self._client is None:
            return
        if isinstance(self._client, redis.RedisCluster):
            # Else redis-py 8.1 leaves one open.
            self._client.disconnect_connection_pools()  # type: ignore[no-untyped-call]
        self._client.close()


class AsyncStoreTransport:
    """The same for asyncio, with the same arguments. A cancel is never lost.

    redis-py sends under `asyncio.wait_for`, which on CPython 3.11 drops one that comes in the turn of the event loop in
    which the sending ends (bpo-37658).
    """

    def __init__(
        self, client: redis.asyncio.Redis | redis.asyncio.RedisCluster, source: str = "backend", prefix: str = "pw"
    ) -> None:
        self._names = names_of(client, prefix)
        self._redis = client
        self._source = source
        self._is_loaded = False

    async def send(self, step: Send, now: float) -> Answers | Trouble:
        """Return the script's verdicts, or that the store could not be asked.

        Raises:
            asyncio.CancelledError: the task was cancelled meanwhile, whatever became of the publishes.
        """
        task = asyncio.current_task()
        cancels = task.cancelling() if task is not None else 0
        try:
            return await self._send(step, now)
        finally:
            if task is not None and task.cancelling() > cancels:
                raise asyncio.CancelledError

    async def _send(self, step: Send, now: float) -> Answers | Trouble:
        is_sharded = isinstance(self._redis, redis.asyncio.RedisCluster)
        batch = Batch(step.items, self._source, now, is_sharded, self._names)
        try:
            if not self._is_loaded:
                await cast(Any, self._redis.script_load(commit.LUA))
                self._is_loaded = True
            batch.complete(await self._run(batch.reads))
            replies = await self._run(batch.commands)
        except _TROUBLES as error:
            await self._distrust()
            return Trouble(f"store: {error}")
        if any(map(wrong_server_code, replies)):
            await self._distrust()
        self._is_loaded = not _is_forgotten(replies)
        return batch.answers(replies)

    async def _distrust(self) -> None:
        """Drop every idle connection, so that the next attempt looks up the server's name. A Cluster says MOVED."""
        if isinstance(self._redis, redis.asyncio.Redis):
            with contextlib.suppress(*_TROUBLES):
                await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _run(self, commands: Sequence[Command]) -> list[object]:
        if not commands:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return cast(list[object], await pipeline.execute(raise_on_error=False))

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
