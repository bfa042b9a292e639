"""An environment's shadow in the store: which tenants are switched, and what the other system says of each tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from planwire_client.core.topic import Topic
from sync.store.command_pipeline import CommandPipeline, Script, run_commands
from sync.store.delayed_queue import DelayedQueue
from sync.store.store import Store

LEASE_S = 60.0
"""Lease of a claimed tenant: an answer of the other system and two commits fit into it."""

SCAN_COUNT = 500

PROBLEM_TTL_S = 600
"""How long the other system's last failure is kept. Where it goes on failing, it is asked again within half of that."""

_PUT = Script.load("sync.billing.storage", "shadow_put")

SHARE, SHARE_BY = "*", "*by"
"""The fields of the share, and of who set it, among the switches; not a tenant's id."""


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
    """The shadow of one environment.

    Attributes:
        queue: the tenants to compare with the other system.
        switching: the tenants to bring to where the switches want them. They do not wait for the other system.
    """

    def __init__(self, store: Store, environment: str) -> None:
        self._store = store
        names = ("switches", "answers", "problem", "due", "switching")
        keys = [store.keys.shadow(environment, name) for name in names]
        self._switches, self._answers, self._problem, self._due, self._switching = keys
        self.queue = DelayedQueue(store, self._due, LEASE_S)
        self.switching = DelayedQueue(store, self._switching, LEASE_S)

    async def is_switched(self, topic: str) -> bool:
        """Return whether a tenant is switched.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return (await self.switched_by(topic))[0]

    async def switched_by(self, topic: str) -> tuple[bool, Mapping[str, str]]:
        """Return whether a tenant is switched, and who has set the share that says so: empty if its name says so.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        id = Topic.parse(topic).id
        ((share, own, by),) = await run_commands(self._store, ("HMGET", self._switches, SHARE, id, SHARE_BY))
        found = {} if own is None else {id: own == b"1"}
        return Switches(float(share or 0), found).is_on(id), orjson.loads(by) if by and own is None else {}

    async def switches(self) -> Switches:
        """Return all switches.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (found,) = await run_commands(self._store, ("HGETALL", self._switches))
        share = float(found.pop(SHARE.encode(), 0))
        found.pop(SHARE_BY.encode(), None)
        return Switches(share, {id.decode(): value == b"1" for id, value in found.items()})

    async def switch_tenant(self, topic: str, now_us: int, *, on: bool) -> None:
        """Switch a tenant, or switch it back, and have a worker bring it there.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        batch.command("HSET", self._switches, Topic.parse(topic).id, b"1" if on else b"0")
        self.switching.schedule_earlier(batch, topic, now_us)
        await batch.run()

    async def switch_share(self, share: float, by: Mapping[str, str], *, clears: bool) -> None:
        """Switch a share of all tenants, 0 to 1, and those above it back.

        Args:
            by: who, for the causes of the versions that the switch makes.
            clears: whether the tenants that were switched by name follow the share, too.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (names,) = await run_commands(self._store, ("HKEYS", self._switches))
        own = [name for name in names if not name.startswith(SHARE.encode())] if clears else []
        # The share first: between two commands, too, each tenant is where one of the two states wants it.
        cleared = [("HDEL", self._switches, *own)] if own else []
        share_set = ("HSET", self._switches, SHARE, repr(share), SHARE_BY, orjson.dumps(by))
        await run_commands(self._store, share_set, *cleared)

    async def record(self, topic: str) -> dict[str, Any] | None:
        """Return what is stored of the other system's answer about a tenant; None if it has never answered.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (found,) = await run_commands(self._store, ("HGET", self._answers, topic))
        return None if found is None else _record(found)

    def put_record(self, batch: CommandPipeline, topic: str, at_us: int, record: Mapping[str, object]) -> None:
        """Add to `batch` what is stored of an answer of `at_us`, unless a newer answer is stored."""
        batch.script(_PUT, (self._answers,), topic, at_us, orjson.dumps(record))

    def put_problem(self, batch: CommandPipeline, topic: str, reason: str, now_us: int) -> None:
        """Add to `batch` the last failure of the other system."""
        problem = orjson.dumps({"topic": topic, "reason": reason, "at_us": now_us})
        batch.command("SET", self._problem, problem, "EX", PROBLEM_TTL_S)

    async def progress(self, now_us: int) -> tuple[int, dict[str, Any] | None]:
        """Return how many tenants wait to be compared or switched now, and the last failure of the other system.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        due, switched, problem = await run_commands(
            self._store, ("ZCOUNT", self._due, "-inf", now_us), ("ZCARD", self._switching), ("GET", self._problem)
        )
        return due + switched, None if problem is None else orjson.loads(problem)

    def erase(self, batch: CommandPipeline, topic: str) -> None:
        """Add to `batch` the removal of everything about a tenant."""
        batch.command("HDEL", self._answers, topic)
        batch.command("HDEL", self._switches, Topic.parse(topic).id)
        self.queue.cancel(batch, topic)
        self.switching.cancel(batch, topic)

    async def topics(self) -> AsyncIterator[str]:
        """Yield the topic of each tenant with an answer, some perhaps twice.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        async for topic, _ in self.records():
            yield topic

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
                yield topic.decode(), _record(record)
            if int(cursor) == 0:
                return


def _record(stored: bytes) -> dict[str, Any]:
    at, _, record = stored.partition(b" ")
    return {"at_us": int(at), **orjson.loads(record)}
