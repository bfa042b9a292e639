"""What gateways tell each other through the store: revocations, announced at once and kept for those who start later.

The Redis channel `pw:control` is the hint, the sorted sets `pw:{control}:revoked` and, for ended logins to the console,
`pw:{control}:logins` (score: seconds since 1970) the truth; a gateway reads them when it starts and after each
resubscription.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from gateway.revocations import LOGIN, Revocation, encode, make
from sync.state.store import Store, StoreError


async def announce(store: Store, revocation: Revocation, *, keep_s: float, limit: int) -> None:
    """Return once the revocation is kept for `keep_s` seconds (the newest `limit` + 1 are) and every gateway was told.

    Raises:
        StoreError: the store is unreachable or failing; the revocation may or may not be in force.
    """
    key = store.keys.ended_logins if revocation.kind == LOGIN else store.keys.revoked
    try:
        pipeline = store.redis.pipeline(transaction=False)
        # GT: a revocation never moves back to an earlier instant.
        pipeline.zadd(key, {f"{revocation.kind} {revocation.value}": revocation.at}, gt=True)
        pipeline.zremrangebyscore(key, "-inf", revocation.at - keep_s)
        # One above what a gateway holds: on loading a full set it gives up the oldest for a general one.
        pipeline.zremrangebyrank(key, 0, -limit - 2)
        pipeline.expire(key, int(keep_s) + 1)
        async with pipeline:
            await pipeline.execute()
    except (RedisError, OSError) as error:
        raise StoreError(f"revocation: {error}") from error
    await store.publish(store.keys.control_channel, encode(revocation))
    await store.wait_durable()


async def load(store: Store, since: float = 0.0) -> list[Revocation]:
    """Return every revocation kept whose instant is `since` (seconds since 1970) or later, oldest first.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    entries: list[Any] = []
    try:
        for key in (store.keys.revoked, store.keys.ended_logins):
            entries += await store.redis.zrangebyscore(key, since, "+inf", withscores=True)
    except (RedisError, OSError) as error:
        raise StoreError(f"revocations: {error}") from error
    found = []
    for member, at in entries:
        kind, _, value = member.decode("utf-8", "replace").partition(" ")
        if (revocation := make(kind, value, at)) is not None:
            found.append(revocation)
    return found
