"""The marks that topics without state carry: somebody reads this one, and: the source has said that it has none.

Gateways set the first and read the second, workers the other way round. A mark is a hint, and may be lost or set twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, cast

from redis.exceptions import RedisError, ResponseError

from sync.store.store import Store, StoreError


async def want(store: Store, topics: Sequence[str], key: str = "") -> None:
    """Return when the worker will ask the source about `topics`; asking twice is asking once.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    try:
        await cast(Any, store.redis.zadd(key or store.keys.hydrate, dict.fromkeys(topics, time.time()), nx=True))
    except (RedisError, OSError) as error:
        raise StoreError(f"mark: {error}") from error


async def is_absent(store: Store, topic: str) -> bool:
    """Return whether the source has said lately that it has no state for `topic`.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    try:
        return bool(await cast(Any, store.redis.exists(store.keys.absent(topic))))
    except (RedisError, OSError) as error:
        raise StoreError(f"mark of {topic}: {error}") from error


async def remember_absent(store: Store, topic: str, seconds: float) -> None:
    """Return when `is_absent` says so, for as many seconds.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    try:
        await cast(Any, store.redis.set(store.keys.absent(topic), b"1", px=max(1, int(seconds * 1000))))
    except (RedisError, OSError) as error:
        raise StoreError(f"mark of {topic}: {error}") from error


async def is_watched(store: Store, topic: str) -> bool:
    """Return whether a gateway has somebody who reads `topic`: whether anybody subscribes its channel.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    try:
        channel = store.keys.channel(topic)
        found = await cast(Any, store.redis.pubsub_numsub(channel))
        if not any(count for _, count in found):
            # A store announces either to everybody or to a shard; one without shards may not know the question.
            with contextlib.suppress(ResponseError):
                found = await cast(Any, store.redis.pubsub_shardnumsub(channel))
    except (RedisError, OSError) as error:
        raise StoreError(f"readers of {topic}: {error}") from error
    return any(count for _, count in found)
