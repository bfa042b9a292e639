"""Publishing straight to the store: the gateways' own commit script, run by this process. Needs the extra `store`.

What the gateway checks before it commits is checked here.
Larger states are published with what they replace, so that tabs get merge patches; the script drops a patch whose base
is not what is stored by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from planwire_client.change import Publish
from planwire_client.commit_batch import Batch, Command, check_format
from planwire_client.core import commit
from planwire_client.delivery import Answers, Retryable, finished
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

Client = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
T = TypeVar("T")

TIMEOUTS: dict[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": 2.0}
"""Short, since `deliver` repeats a call by its event id, not redis-py."""

_FAILURES = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError)


def _address(url: str) -> tuple[str, list[tuple[str, int]] | None]:
    """Return a URL as redis-py reads it, and None; of a Cluster that of its first node, and the other nodes.

    A Cluster's is `redis+cluster://[user:password@]host:port[,host:port...]`, or rediss+cluster.
    """
    split = urlsplit(url)
    scheme, plus, _ = split.scheme.partition("+")
    if not plus:
        return url, None
    login, at, hosts = split.netloc.rpartition("@")
    first, *others = hosts.split(",")
    nodes = [(host, int(port or 6379)) for host, _, port in (other.partition(":") for other in others)]
    return split._replace(scheme=scheme, netloc=login + at + first).geturl(), nodes


def open_blocking(url: str) -> redis.Redis | Callable[[], redis.RedisCluster]:
    """Return a client of the server at `url`; of a Cluster what makes one on first use."""
    address, others = _address(url)
    if others is None:
        return redis.Redis.from_url(address, **TIMEOUTS)
    nodes = [redis.cluster.ClusterNode(host, port) for host, port in others]  # type: ignore[no-untyped-call]
    return lambda: redis.RedisCluster.from_url(address, startup_nodes=nodes, **TIMEOUTS)


def open_async(url: str) -> AsyncClient:
    """Return a client of the server, or of the Cluster, at `url` for asyncio; it connects on first use."""
    address, others = _address(url)
    if others is None:
        return redis.asyncio.Redis.from_url(address, **TIMEOUTS)
    nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in others]
    return redis.asyncio.RedisCluster.from_url(address, startup_nodes=nodes, **TIMEOUTS)


async def _result(value: Any) -> Any:
    """Return what a client of either kind returned."""
    return await value if inspect.isawaitable(value) else value


class _Committing(Generic[T]):
    """Commits over a client of either kind: with a blocking one no coroutine waits."""

    def __init__(self, client: T, source: str = "backend", prefix: str = "pw") -> None:
        """Commit over `client`.

        Args:
            source: what causes say it came from.
            prefix: the installation's PLANWIRE_PREFIX.

        Raises:
            PlanwireError: `prefix` cannot be one.
        """
        try:
            self._prefix = commit.check_prefix(prefix)
        except commit.PrefixError as error:
            raise PlanwireError(str(error)) from None
        self._client: Any = client
        self._source = source
        self._is_loaded = False

    async def _commit(self, items: Sequence[Publish]) -> Answers | Retryable:
        try:
            if callable(self._client):
                self._client = self._client()
            is_sharded = isinstance(self._client, redis.RedisCluster | redis.asyncio.RedisCluster)
            pool = getattr(self._client, "connection_pool", None)
            names = commit.Names(self._prefix, int(pool.connection_kwargs.get("db") or 0) if pool is not None else 0)
            batch = Batch(items, self._source, time.time(), names, is_sharded=is_sharded)
            if not self._is_loaded:
                check_format((await self._run([["HGET", names.schema, "needs"]]))[0])
                await _result(self._client.script_load(commit.LUA))
            batch.complete(await self._run(batch.reads))
            replies = await self._run(batch.commands)
        except _FAILURES as error:
            await self._distrust()
            return Retryable(f"store: {error}")
        if any(map(commit.wrong_server_code, replies)):
            await self._distrust()
        # A restarted store no longer knows the script. What did not run is sent again by `deliver`.
        self._is_loaded = not any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies)
        return batch.answers(replies)

    async def _run(self, commands: Sequence[Command]) -> list[object]:
        if not commands:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[object] = await _result(pipeline.execute(raise_on_error=False))
        return replies

    async def _distrust(self) -> None:
        """Drop every idle connection, so that the next attempt looks up the server's name. A Cluster says MOVED."""
        if isinstance(self._client, redis.Redis | redis.asyncio.Redis):
            with contextlib.suppress(*_FAILURES):
                await _result(self._client.connection_pool.disconnect(inuse_connections=False))


class StoreTransport(_Committing[Client | Callable[[], Client]]):
    """A blocking connection pool to the store: a client of one server or of a Cluster, or what makes it."""

    def send(self, items: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
        """Return the script's verdicts, or that the store did not answer."""
        return finished(self._commit(items))

    def close(self) -> None:
        """Close every connection."""
        if callable(self._client):
            return
        if isinstance(self._client, redis.RedisCluster):
            # Else redis-py 8.1 leaves one open.
            self._client.disconnect_connection_pools()  # type: ignore[no-untyped-call]
        self._client.close()


class AsyncStoreTransport(_Committing[AsyncClient]):
    """The same for asyncio. A cancel is never lost.

    redis-py sends under `asyncio.wait_for`, which on CPython 3.11 drops one that comes in the turn of the event loop in
    which the sending ends (bpo-37658).
    """

    async def send(self, items: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
        """Return the script's verdicts, or that the store did not answer.

        Raises:
            asyncio.CancelledError: the task was cancelled meanwhile, whatever became of the publishes.
        """
        task = asyncio.current_task()
        cancels = task.cancelling() if task is not None else 0
        try:
            return await self._commit(items)
        finally:
            if task is not None and task.cancelling() > cancels:
                raise asyncio.CancelledError

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
