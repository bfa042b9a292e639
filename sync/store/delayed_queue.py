"""A queue whose members become due at a time: timers, audits, comparisons, hydration, and retries of the inbox.

A queue is a sorted set; a member's score is when it is due, in microseconds since 1970. A claim sets the score to the
end of the lease, so the member is due again if the worker dies. Claims are fenced: each has a token, and only the
token's holder can end it. A claim also has a generation. `request` and `schedule_earlier` raise it while the member is
claimed; when such a claim ends, the member is due at once. So no request is lost, and no two workers handle a member at
once.

Token and generation are in a hash beside the sorted set (`queue_claim.lua`). Builds from before the hash use the sorted
set only. During a roll-out both kinds of build work on one queue:
- They schedule with the same scores (the earlier build writes seconds for "now", which is always due).
- A claim of an earlier build changes the score, which makes the entry in the hash void.
- An earlier build ends its claims by the score alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sync.store.command_pipeline import CommandPipeline, Connection, Script, run_script

LEASE_S = 60.0

_SCHEDULE = Script.load(__package__, "queue_schedule")
_CLAIM = Script.load(__package__, "queue_claim")
_ACK = Script.load(__package__, "queue_ack")


@dataclass(frozen=True, slots=True)
class Due:
    """A claimed member, with the proof of the claim: the end of its lease (the member's score) and its token."""

    topic: str
    lease: bytes
    token: str = "-"  # noqa: S105 - names a claim


class DelayedQueue:
    """One queue. Methods with a `batch` add commands to it; the others do a round trip."""

    def __init__(self, store: Connection, key: str, lease_s: float = LEASE_S, *, is_fenced: bool = True) -> None:
        """Use a sorted set.

        Args:
            store: the store.
            key: the sorted set.
            lease_s: length of a claim in seconds.
            is_fenced: False for a queue that ends its claims by its own script, like the inbox.
        """
        self._store = store
        self._keys = (key, store.keys.claims(key)) if is_fenced else (key,)
        self._lease_us = int(lease_s * 1_000_000)

    def schedule_earlier(self, batch: CommandPipeline, topic: str, due_us: int) -> None:
        """Make a topic due at `due_us`, unless it is due earlier already."""
        batch.script(_SCHEDULE, self._keys, due_us, "LT", topic)

    def schedule_once(self, batch: CommandPipeline, topic: str, due_us: int) -> None:
        """Make a topic due at `due_us`, unless it is in the queue."""
        batch.command("ZADD", self._keys[0], "NX", due_us, topic)

    def request(self, batch: CommandPipeline, topics: Sequence[str]) -> None:
        """Make topics due now, unless they are in the queue. A claimed topic is due again when its claim ends."""
        if topics:
            batch.script(_SCHEDULE, self._keys, "", "NX", *topics)

    def cancel(self, batch: CommandPipeline, topic: str) -> None:
        """Remove a topic, even if it is claimed."""
        batch.command("ZREM", self._keys[0], topic)
        for claims in self._keys[1:]:
            batch.command("HDEL", claims, topic)

    async def claim(self, count: int) -> list[Due]:
        """Claim up to `count` due topics; return them, the most overdue first.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        token = secrets.token_hex(8)
        lease, *topics = await run_script(self._store, _CLAIM, self._keys, self._lease_us, count, token)
        return [Due(topic.decode(), lease, token) for topic in topics]

    async def ack(self, due: Due, next_us: int | None = None) -> bool:
        """End a claim with the work done. Return False if the claim was lost; then nothing is changed.

        Args:
            due: the claim.
            next_us: when the topic is due next; None removes it. If it was requested during the claim, it is due now.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._end(due, "" if next_us is None else next_us, "")

    async def reschedule(self, due: Due, pause_s: float = 0) -> bool:
        """End a claim with the work not done: the topic is due again in `pause_s`. Return False if the claim was lost.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._end(due, "", int(pause_s * 1_000_000))

    async def _end(self, due: Due, next_us: int | str, pause_us: int | str) -> bool:
        claim = (due.topic, due.lease, due.token)
        return bool(await run_script(self._store, _ACK, self._keys, *claim, next_us, pause_us))
