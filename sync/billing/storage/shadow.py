"""An environment's shadow in the store: which tenants are switched, and what the other system says of each tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from planwire_client.core.topic import Topic
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.delayed_queue import DelayedQueue
from sync.store.store import Store

LEASE_S = 60.0
"""Lease of a claimed tenant: an answer of the other system and two commits fit into it."""

SCAN_COUNT = 500

SHARE = "*"
"""The field of the share among the switches; not a tenant's id."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Which tenants are switched: their pages show what billing computes.

    Attributes:
        share: of all tenants, 0 to 1.
        tenants: by topic id, those that an operator has switched (True) or switched back, whatever the share is.
    """

    share: float = 0.0
    tenants: Mapping[str, bool] = field(default_factory=dict)

    def is_on(self, tenant_id: str) -> bool:
        """Return whether a tenant is switched."""
        return self.tenants.get(tenant_id, place_of(tenant_id) < self.share)


def place_of(tenant_id: str) -> float:
    """Return a tenant's place from 0 to 1, the same for ever: a share that grows keeps those that it has."""
    return int.from_bytes(sha256(tenant_id.encode()).digest()[:6]) / 2**48


class ShadowLog:
    """The shadow of one environment."""

    def __init__(self, store: Store, environment: str) -> None:
        self._store = store
        self._switches = store.keys.shadow(environment, "switches")
        self._answers = store.keys.shadow(environment, "answers")
        self.queue = DelayedQueue(store, store.keys.shadow(environment, "due"), LEASE_S)

    async def is_switched(self, topic: str) -> bool:
        """Return whether a tenant is switched.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        id = Topic.parse(topic).id
        ((share, own),) = await run_commands(self._store, ("HMGET", self._switches, SHARE, id))
        found = {} if own is None else {id: own == b"1"}
        return Switches(float(share or 0), found).is_on(id)

    async def switches(self) -> Switches:
        """Return all switches.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (found,) = await run_commands(self._store, ("HGETALL", self._switches))
        share = float(found.pop(SHARE.encode(), 0))
        return Switches(share, {id.decode(): value == b"1" for id, value in found.items()})

    async def switch_tenant(self, topic: str, *, on: bool) -> None:
        """Switch a tenant, or switch it back.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await run_commands(self._store, ("HSET", self._switches, Topic.parse(topic).id, b"1" if on else b"0"))

    async def switch_share(self, share: float, *, clears: bool) -> None:
        """Switch a share of all tenants, 0 to 1, and those above it back.

        Args:
            clears: whether the tenants that were switched by name follow the share, too.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (names,) = await run_commands(self._store, ("HKEYS", self._switches))
        own = [name for name in names if name != SHARE.encode()] if clears else []
        # The share first: between two commands, too, each tenant is where one of the two states wants it.
        cleared = [("HDEL", self._switches, *own)] if own else []
        await run_commands(self._store, ("HSET", self._switches, SHARE, repr(share)), *cleared)

    async def record(self, topic: str) -> dict[str, Any] | None:
        """Return what is stored of the other system's answer about a tenant; None if it has never answered.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (found,) = await run_commands(self._store, ("HGET", self._answers, topic))
        return None if found is None else orjson.loads(found)

    def put_record(self, batch: CommandPipeline, topic: str, record: Mapping[str, object]) -> None:
        """Add to `batch` what is stored of the other system's answer about a tenant."""
        batch.command("HSET", self._answers, topic, orjson.dumps(record))

    def erase(self, batch: CommandPipeline, topic: str) -> None:
        """Add to `batch` the removal of everything about a tenant."""
        batch.command("HDEL", self._answers, topic)
        batch.command("HDEL", self._switches, Topic.parse(topic).id)
        self.queue.cancel(batch, topic)

    async def records(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield each tenant's topic and its record; some perhaps twice.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        cursor = b"0"
        while True:
            scan = ("HSCAN", self._answers, cursor, "COUNT", SCAN_COUNT)
            ((cursor, found),) = await run_commands(self._store, scan)
            pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
            for topic, record in pairs:
                yield topic.decode(), orjson.loads(record)
            if int(cursor) == 0:
                return
