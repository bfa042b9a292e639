"""What gateways and workers tell each other about topics without state: requests to ask the source, and its "none".

Gateways request and read "none"; workers ask the source and record "none". Both are hints that may be lost or repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.delayed_queue import DelayedQueue
from sync.store.models import StoreError
from sync.store.store import Store


async def want(store: Store, topics: Sequence[str], key: str = "") -> None:
    """Request that a worker asks the source about `topics`; a queued topic stays where it is.

    Args:
        store: the store.
        topics: the topics' names.
        key: the queue; the one for topics without state if left out.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    batch = CommandPipeline(store)
    DelayedQueue(store, key or store.keys.hydrate).request(batch, topics)
    await batch.run()


async def is_absent(store: Store, topic: str) -> bool:
    """Return whether the source has said lately that it has no state for `topic`.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    return bool((await run_commands(store, ("EXISTS", store.keys.absent(topic))))[0])


async def remember_absent(store: Store, topic: str, seconds: float) -> None:
    """Record that the source has no state for `topic`, for so many seconds.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    await run_commands(store, ("SET", store.keys.absent(topic), b"1", "PX", max(1, int(seconds * 1000))))


async def is_watched(store: Store, topic: str) -> bool:
    """Return whether a gateway subscribes to the topic's channel, since somebody reads it.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    servers, channel = await store.servers(), store.keys.channel(topic)
    shard = store.shard_of(topic)
    server: Any = servers.get(shard)
    if server is None:
        raise StoreError(f"readers of {topic}: nobody serves its slot")
    try:
        # Each announces in its way only, and one without shards may not know the other.
        ((_, count),) = await (server.pubsub_shardnumsub(channel) if shard else server.pubsub_numsub(channel))
    except (RedisError, OSError) as error:
        raise StoreError(f"readers of {topic}: {error}") from error
    return bool(count)
