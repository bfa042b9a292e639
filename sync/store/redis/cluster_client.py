"""A Redis Cluster as a redis-py client: what the store uses of one, without transactions and pub/sub."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from sync.store.redis import cluster_commands
from sync.store.redis.cluster import Cluster

EVERYWHERE = ("PING", "SCRIPT LOAD", "CONFIG SET", "FLUSHALL")
"""Commands without a key that are sent to every primary."""

ANYWHERE = ("TIME",)
"""Commands without a key that are sent to one primary."""


class ClusterRedis(Redis):
    """A Cluster with the methods of a client of one server."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()  # its own pool stays empty: every command goes through `cluster`
        self.nodes = cluster

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Return the reply of the key's primary; the first of all primaries' for a command in EVERYWHERE.

        Raises:
            redis.exceptions.RedisError: an error reply, or no server was reached.
        """
        if args[0] in EVERYWHERE:
            return await cluster_commands.everywhere(self.nodes, (args, options))
        if args[0] in ANYWHERE:
            return await cluster_commands.anywhere(self.nodes, (args, options))
        (reply,) = await cluster_commands.run(self.nodes, [(args, options)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline over all shards.

        Raises:
            ValueError: `transaction` is true.
        """
        if transaction:
            raise ValueError("a Cluster has no transactions over several slots: pipeline(transaction=False)")
        return ClusterPipeline(self)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection."""
        await self.nodes.aclose()
        await super().aclose(close_connection_pool)


class ClusterPipeline(Pipeline):
    """Commands for several shards, collected as redis-py does."""

    def __init__(self, redis: ClusterRedis) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, False, None)
        self._cluster = redis.nodes

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Return the replies, in order. If one command fails, others may have run.

        Args:
            raise_on_error: whether to raise the first failure; otherwise each stands in the place of its reply.

        Raises:
            redis.exceptions.RedisError: no node tells the layout; or a failure, with `raise_on_error`.
        """
        stack = [(tuple(args), options) for args, options in self.command_stack]
        try:
            replies = await cluster_commands.run(self._cluster, stack)
        finally:
            await self.reset()  # type: ignore[no-untyped-call]
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies
