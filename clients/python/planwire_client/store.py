"""Publishing directly to the store: this process runs the gateways' commit script. Needs the extra `store`.

It makes the gateway's checks before a commit. For larger states it reads the stored state first and sends a merge patch
for tabs; the script drops a patch whose base is not the stored version.
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
except ImportError as error:  # pragma: no cover - the message for installs without the extra
    raise ImportError(
        "publishing straight to the store needs the extra: pip install 'planwire-client[store]'"
    ) from error

Client = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
T = TypeVar("T")

TIMEOUTS: dict[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": 2.0}
"""Timeouts in seconds. They are short, because `deliver` does the retries instead of redis-py."""

_FAILURES = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError)


def _address(url: str) -> tuple[str, list[tuple[str, int]] | None]:
    """Return a URL for redis-py, and None; for a Cluster, the URL of its first node, and the other nodes.

    A Cluster's URL is `redis+cluster://[user:password@]host:port[,host:port...]`, or rediss+cluster.
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
    """Return a client of the server at `url`; for a Cluster, a function that makes a client on first use."""
    address, others = _address(url)
    if others is None:
        return redis.Redis.from_url(address, **TIMEOUTS)
    nodes = [redis.cluster.ClusterNode(host, port) for host, port in others]  # type: ignore[no-untyped-call]
    return lambda: redis.RedisCluster.from_url(address, startup_nodes=nodes, **TIMEOUTS)


def open_async(url: str) -> AsyncClient:
    """Return an asyncio client of the server or Cluster at `url`; it connects on first use."""
    address, others = _address(url)
    if others is None:
        return redis.asyncio.Redis.from_url(address, **TIMEOUTS)
    nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in others]
    return redis.asyncio.RedisCluster.from_url(address, startup_nodes=nodes, **TIMEOUTS)


async def _result(value: Any) -> Any:
    """Return the result of a client's call, blocking or async."""
    return await value if inspect.isawaitable(value) else value


class _Committing(Generic[T]):
    """Commits with a blocking or async client. With a blocking client the coroutines never wait."""

    def __init__(self, client: T, source: str = "backend", prefix: str = "pw") -> None:
        """Commit with `client`.

        Args:
            source: the source in causes.
            prefix: the installation's PLANWIRE_PREFIX.

        Raises:
            PlanwireError: `prefix` is not a valid prefix.
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
        # A restarted store has lost the script. `deliver` retries the commands that did not run.
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
        """Drop every idle connection, so that the next attempt resolves the name again. A Cluster redirects itself."""
        if isinstance(self._client, redis.Redis | redis.asyncio.Redis):
            with contextlib.suppress(*_FAILURES):
                await _result(self._client.connection_pool.disconnect(inuse_connections=False))


class StoreTransport(_Committing[Client | Callable[[], Client]]):
    """A blocking transport to the store: a client of a server or Cluster, or a function that makes one."""

    def send(self, items: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
        """Return the script's verdicts, or that the store did not answer."""
        return finished(self._commit(items))

    def close(self) -> None:
        """Close every connection."""
        if callable(self._client):
            return
        if isinstance(self._client, redis.RedisCluster):
            # Otherwise redis-py 8.1 leaves a connection open.
            self._client.disconnect_connection_pools()  # type: ignore[no-untyped-call]
        self._client.close()


class AsyncStoreTransport(_Committing[AsyncClient]):
    """A transport to the store for asyncio. It never loses a cancellation.

    redis-py sends under `asyncio.wait_for`. On CPython 3.11 that loses a cancellation that arrives in the same turn of
    the event loop as the end of the sending (bpo-37658).
    """

    async def send(self, items: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
        """Return the script's verdicts, or that the store did not answer.

        Raises:
            asyncio.CancelledError: the task was cancelled; the publishes may have happened.
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
