"""What gateways and consoles know of each other through the store: who looks at what, which gateways there are.

While a console is open it says so every few seconds, on the control channel as a hint and in the sorted set
`pw:{console}:leases` as the truth; gateways report only while that is so. Each stands in `pw:{console}:gateways`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sync.store.command_pipeline import run_commands
from sync.store.store import Change, Committed, Store

OVERVIEW = "*"
"""The lease of a console that is open at all."""

LEASE_S = 10.0
RENEW_S = 3.0
"""How long a look counts, and how often a page repeats it."""

WATCHED_MAX = 64
"""Topics that all consoles together look at; beyond, those looked at longest ago are not reported."""

GONE_S = 60.0
"""When a gateway that says nothing is forgotten."""

KEEP_S = 60
"""How long a report outlives its gateway's last one."""

LOG_KEPT = 1
"""Versions that a report's history keeps."""

OP = "look"


@dataclass(frozen=True, slots=True)
class Leases:
    """What is looked at, and the gateways by when they last said that they are there (seconds since 1970)."""

    is_open: bool
    topics: tuple[str, ...]
    gateways: dict[str, float]


def _leases(store: Store) -> str:
    return store.keys.console("leases")


def _gateways(store: Store) -> str:
    return store.keys.console("gateways")


async def look(store: Store, topics: Sequence[str]) -> None:
    """Return once it is known that a console is open and looks at `topics`.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    until = time.time() + LEASE_S
    await run_commands(
        store,
        ("ZADD", _leases(store), *(item for name in (OVERVIEW, *topics) for item in (until, name))),
        ("ZREMRANGEBYRANK", _leases(store), 0, -WATCHED_MAX - 2),
        ("EXPIRE", _leases(store), int(10 * LEASE_S)),
    )
    await store.publish(store.keys.control_channel, orjson.dumps({"op": OP, "topics": list(topics)}))


async def register(store: Store, node: str) -> Leases:
    """Return what is looked at, having said that the gateway `node` is there.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    now = time.time()
    _, _, _, leases, gateways = await run_commands(
        store,
        ("ZADD", _gateways(store), now, node),
        ("ZREMRANGEBYSCORE", _gateways(store), "-inf", now - GONE_S),
        ("ZREMRANGEBYSCORE", _leases(store), "-inf", now),
        ("ZRANGEBYSCORE", _leases(store), now, "+inf"),
        ("ZRANGE", _gateways(store), 0, -1, "WITHSCORES"),
    )
    names = [name.decode() for name in leases]
    return Leases(OVERVIEW in names, tuple(name for name in names if name != OVERVIEW), _scored(gateways))


async def leave(store: Store, node: str) -> None:
    """Return once the gateway `node` is known to be gone.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    await run_commands(store, ("ZREM", _gateways(store), node))


async def gateways(store: Store) -> dict[str, float]:
    """Return the gateways by when they last said that they are there (seconds since 1970).

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (found,) = await run_commands(store, ("ZRANGE", _gateways(store), 0, -1, "WITHSCORES"))
    return _scored(found)


async def publish(store: Store, change: Change) -> Committed:
    """Return what became of a report, which is not kept: neither its history nor, for long, itself.

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


def _scored(reply: Sequence[Any]) -> dict[str, float]:
    """Return a WITHSCORES reply by member; redis-py may have paired it, or not (RESP2, unparsed)."""
    if reply and isinstance(reply[0], list | tuple):
        return {member.decode(): float(score) for member, score in reply}
    return {member.decode(): float(score) for member, score in zip(reply[::2], reply[1::2], strict=True)}
