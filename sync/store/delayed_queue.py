"""Topics that are due at a time: a sorted set, claimed under a lease.

One says when each tenant's state may change by time alone, another when it is compared with its provider. A timer that
fires early, or twice, costs a look and changes nothing: what fires is a projection at the present instant.
So `arm` only ever moves a timer forward, and nothing but the worker that fired it moves it back.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync.store.command_pipeline import Batch, Script
from sync.store.store import Store

_CLAIM = Script.load(__package__, "queue_claim")
_SETTLE = Script.load(__package__, "queue_ack")


@dataclass(frozen=True, slots=True)
class Due:
    """A claimed timer: the topic, and the token that ends the lease."""

    topic: str
    lease: bytes


class DelayedQueue:
    """Topics by when they are due, in the sorted set `key`."""

    def __init__(self, store: Store, key: str, lease_s: float) -> None:
        """Use `store`; claims last `lease_s`."""
        self._store = store
        self._due = key
        self._lease_us = int(lease_s * 1_000_000)

    def arm(self, batch: Batch, topic: str, due_us: int) -> None:
        """Add to `batch` that the topic is due at `due_us`, unless it is due earlier anyway."""
        batch.command("ZADD", self._due, "LT", due_us, topic)

    def plan(self, batch: Batch, topic: str, due_us: int) -> None:
        """Add to `batch` that the topic is due at `due_us`, unless it has a time already."""
        batch.command("ZADD", self._due, "NX", due_us, topic)

    def cancel(self, batch: Batch, topic: str) -> None:
        """Add to `batch` that the topic is never due."""
        batch.command("ZREM", self._due, topic)

    async def claim(self, count: int) -> list[Due]:
        """Return up to `count` topics that are due, claimed for the caller.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self._store)
        batch.script(_CLAIM, (self._due,), self._lease_us, count)
        ((lease, *topics),) = await batch.run()
        return [Due(topic.decode(), lease) for topic in topics]

    def settle(self, batch: Batch, due: Due, next_us: int | None) -> None:
        """Add to `batch` the end of a claim: when the topic is due next, or None for never."""
        batch.script(_SETTLE, (self._due,), due.topic, due.lease, "" if next_us is None else next_us)
