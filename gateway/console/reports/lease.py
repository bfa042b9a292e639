"""Leases and registrations in the store: consoles lease the topics that they show, and gateways register.

An open console renews its leases every few seconds. They are in the sorted set `pw:{console}:leases`; a message on the
control channel is only a hint. Gateways report while there is a lease, and register in `pw:{console}:gateways`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import orjson

from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.models import Change, Committed
from sync.store.store import Store

OVERVIEW = "*"
"""The lease that every open console holds, in addition to its topics."""

LEASE_S = 10.0
RENEW_S = 3.0
"""Seconds that a lease lasts, and seconds after which a page renews it."""

WATCHED_MAX = 64
"""Maximum number of leased topics of all consoles together. Beyond it the oldest leases are dropped."""

GONE_S = 60.0
"""Seconds after its last registration at which a gateway is removed."""

KEEP_S = 60
"""Seconds that a report stays stored after its gateway's last report."""

LOG_KEPT = 1
"""Number of versions in a report's log."""

OP = "look"
"""The `op` of the control message that announces a lease."""


async def touch_lease(store: Store, topics: Sequence[str]) -> None:
    """Renew the leases of a console that shows `topics`, and announce them.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    leases, until = store.keys.console("leases"), time.time() + LEASE_S
    await run_commands(
        store,
        ("ZADD", leases, *(item for name in (OVERVIEW, *topics) for item in (until, name))),
        ("ZREMRANGEBYRANK", leases, 0, -WATCHED_MAX - 2),
        ("EXPIRE", leases, int(10 * LEASE_S)),
    )
    await store.publish(store.keys.control_channel, orjson.dumps({"op": OP, "topics": list(topics)}))


async def register(store: Store, node: str) -> list[str] | None:
    """Register the gateway `node`; return the leased topics, or None if no console is open.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    now, leases, gateways = time.time(), store.keys.console("leases"), store.keys.console("gateways")
    *_, found = await run_commands(
        store,
        ("ZADD", gateways, now, node),
        ("ZREMRANGEBYSCORE", gateways, "-inf", now - GONE_S),
        ("ZREMRANGEBYSCORE", leases, "-inf", now),
        ("ZRANGEBYSCORE", leases, now, "+inf"),
    )
    names = [name.decode() for name in found]
    return [name for name in names if name != OVERVIEW] if OVERVIEW in names else None


async def leave(store: Store, node: str) -> None:
    """Remove the registration of the gateway `node`.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    await run_commands(store, ("ZREM", store.keys.console("gateways"), node))


async def gateways(store: Store) -> dict[str, float]:
    """Return the gateways with the time of their last registration (seconds since 1970).

    Raises:
        StoreError: the store is unreachable or failing.
    """
    pipeline = CommandPipeline(store)
    pipeline.command("ZRANGE", store.keys.console("gateways"), 0, -1, "WITHSCORES", withscores=True)
    (found,) = await pipeline.run()
    return {name.decode(): float(at) for name, at in found}


async def publish(store: Store, change: Change) -> Committed:
    """Commit a report, and set a short expiry on it and its log.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    committed = await store.commit(change)
    await run_commands(
        store,
        ("XTRIM", store.keys.log(change.topic), "MAXLEN", LOG_KEPT),
        ("EXPIRE", store.keys.log(change.topic), KEEP_S),
        ("EXPIRE", store.keys.snap(change.topic), KEEP_S),
    )
    return committed
