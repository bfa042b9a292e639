"""Publishing straight to the store: the gateways' own commit script, run by this process. Needs the extra `store`.

What the gateway checks before it commits is checked here.
Larger states are published with what they replace, so that tabs get merge patches; the script drops a patch whose base
is not what is stored by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from planwire_client.commit_batch import Batch, Command, check_format, needed_format
from planwire_client.core import commit
from planwire_client.core.commit import Names, PrefixError, check_prefix, wrong_server_code
from planwire_client.delivery import Answers, Retryable, Send
from planwire_client.errors import PlanwireError

try:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.cluster
except ImportError as error:  # pragma: no cover - told to people who left the extra out
    raise ImportError(
        "publishing straight to the store needs the extra: pip install 'planwire-client[store]'"
    ) from error

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0


def options() -> dict[str, Any]:
    """Return a connection's options: short timeouts, since `deliver` repeats a call by its event id, not redis-py."""
    return {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}


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


def open_store(url: str) -> redis.Redis | Callable[[], redis.RedisCluster]:
    """Return a client of the server at `url`; of a Cluster what makes one on first use."""
    return (lambda: open_cluster(url)) if is_cluster(url) else redis.Redis.from_url(url, **options())


def open_store_async(url: str) -> redis.asyncio.Redis | redis.asyncio.RedisCluster:
    """Return a client of the server, or of the Cluster, at `url` for asyncio; it connects on first use."""
    return open_cluster_async(url) if is_cluster(url) else redis.asyncio.Redis.from_url(url, **options())


_FAILURES = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError)


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
        self._prefix = names_of(None, prefix).prefix
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

    def send(self, step: Send, now: float) -> Answers | Retryable:
        """Return the script's verdicts, or that the store did not answer."""
        try:
            is_sharded = isinstance(self._redis, redis.RedisCluster)
            names = names_of(self._redis, self._prefix)
            batch = Batch(step.items, self._source, now, is_sharded, names)
            if not self._is_loaded:
                check_format(self._run([needed_format(names)])[0])
                self._redis.script_load(commit.LUA)
                self._is_loaded = True
            batch.complete(self._run(batch.reads))
            replies = self._run(batch.commands)
        except _FAILURES as error:
            self._distrust()
            return Retryable(f"store: {error}")
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

    async def send(self, step: Send, now: float) -> Answers | Retryable:
        """Return the script's verdicts, or that the store did not answer.

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

    async def _send(self, step: Send, now: float) -> Answers | Retryable:
        is_sharded = isinstance(self._redis, redis.asyncio.RedisCluster)
        batch = Batch(step.items, self._source, now, is_sharded, self._names)
        try:
            if not self._is_loaded:
                check_format((await self._run([needed_format(self._names)]))[0])
                await cast(Any, self._redis.script_load(commit.LUA))
                self._is_loaded = True
            batch.complete(await self._run(batch.reads))
            replies = await self._run(batch.commands)
        except _FAILURES as error:
            await self._distrust()
            return Retryable(f"store: {error}")
        if any(map(wrong_server_code, replies)):
            await self._distrust()
        self._is_loaded = not _is_forgotten(replies)
        return batch.answers(replies)

    async def _distrust(self) -> None:
        """Drop every idle connection, so that the next attempt looks up the server's name. A Cluster says MOVED."""
        if isinstance(self._redis, redis.asyncio.Redis):
            with contextlib.suppress(*_FAILURES):
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
