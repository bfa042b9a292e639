"""A queue whose members become due at a time: timers, audits, comparisons, hydration, and retries of the inbox.

A queue is a sorted set; a member's score is when it is due, in microseconds since 1970. A claim sets the score to the
end of the lease, so the member is due again if the worker dies. Claims are fenced: each has a token, and only the
token's holder can end it. A claim also has a generation. `request` and `schedule_earlier` raise it while the member is
claimed; when such a claim ends, the member is due at once. So no request is lost, and no two workers handle a member at
once.

Before the work on a member, `begin` counts an attempt, in the store: one that ends its process is counted too. `ack`
ends the count, `reschedule` takes the attempt back, `fail` keeps it, and `park` takes the member out of the queue until
it is scheduled again or `reopen` is called; it counts as parked until its work is done. Members are bytes: one that is
not UTF-8 is claimed like any other.

Token and generation are in a hash beside the sorted set (`queue_claim.lua`), attempts and parked members in two more.
Builds from before a hash use the others only. During a roll-out all kinds of build work on one queue:
- They schedule with the same scores (the earliest build writes seconds for "now", which is always due).
- A claim of the earliest build changes the score, which makes the entry in the hash void.
- The earliest build ends its claims by the score alone.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sync.store.command_pipeline import CommandPipeline, Connection, Script, run_commands, run_script

LEASE_S = 60.0

PAGE = 200
"""Parked members queued again at a time."""

REASON_MAX = 300
"""Maximum characters of the reason of a parked member."""

_SCHEDULE = Script.load(__package__, "queue_schedule")
_CLAIM = Script.load(__package__, "queue_claim")
_BEGIN = Script.load(__package__, "queue_begin")
_ACK = Script.load(__package__, "queue_ack")


@dataclass(frozen=True, slots=True)
class Due:
    """A claimed member, with the proof of the claim: the end of its lease (the member's score) and its token.

    Attributes:
        topic: the member; bytes that are not UTF-8 are escaped with backslashes, which no topic has.
        tries: the attempts since its work was last done, with this one; 0 before `begin`.
        raw: the member's bytes, if they differ from `topic`.
    """

    topic: str
    lease: bytes
    token: str = "-"  # noqa: S105 - names a claim
    tries: int = 0
    raw: bytes = b""

    @property
    def id(self) -> str:
        """The member, for logs."""
        return self.topic

    @property
    def member(self) -> str | bytes:
        """The member, for commands."""
        return self.raw or self.topic


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
        names = store.keys
        beside = (names.claims(key), names.attempts(key), names.parked_members(key)) if is_fenced else ()
        self._keys: tuple[str, ...] = (key, *beside)
        self._lease_us = int(lease_s * 1_000_000)

    def schedule_earlier(self, batch: CommandPipeline, topic: str | bytes, due_us: int) -> None:
        """Make a topic due at `due_us`, unless it is due earlier already."""
        batch.script(_SCHEDULE, self._keys[:2], due_us, "LT", topic)

    def schedule_once(self, batch: CommandPipeline, topic: str | bytes, due_us: int) -> None:
        """Make a topic due at `due_us`, unless it is in the queue."""
        batch.command("ZADD", self._keys[0], "NX", due_us, topic)

    def request(self, batch: CommandPipeline, topics: Sequence[str | bytes]) -> None:
        """Make topics due now, unless they are in the queue. A claimed topic is due again when its claim ends."""
        if topics:
            batch.script(_SCHEDULE, self._keys[:2], "", "NX", *topics)

    def cancel(self, batch: CommandPipeline, topic: str) -> None:
        """Remove a topic, even if it is claimed."""
        batch.command("ZREM", self._keys[0], topic)
        for beside in self._keys[1:]:
            batch.command("HDEL", beside, topic)

    async def claim(self, count: int) -> list[Due]:
        """Claim up to `count` due topics; return them, the most overdue first.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        token = secrets.token_hex(8)
        lease, *topics = await run_script(self._store, _CLAIM, self._keys[:2], self._lease_us, count, token)
        return [due_of(member, lease, token) for member in topics]

    async def begin(self, due: Due) -> Due | None:
        """Count an attempt at a claimed topic and renew its lease; return the renewed claim, or None if it was lost.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        claim = (due.member, due.lease, due.token, self._lease_us)
        renewed = await run_script(self._store, _BEGIN, self._keys[:3], *claim)
        return replace(due, lease=renewed[0], tries=int(renewed[1])) if renewed else None

    async def holds(self, due: Due) -> bool:
        """Return whether a claim still counts; to be asked before an effect outside the store.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        score, entry = await run_commands(
            self._store, ("ZSCORE", self._keys[0], due.member), ("HGET", self._keys[1], due.member)
        )
        is_current = entry is not None and entry.split()[:2] == [due.lease, due.token.encode()]
        return is_current and score is not None and int(score) == int(due.lease)

    async def ack(self, due: Due, next_us: int | None = None) -> bool:
        """End a claim with the work done. Return False if the claim was lost; then nothing is changed.

        Args:
            due: the claim.
            next_us: when the topic is due next; None removes it. If it was requested during the claim, it is due now.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._end(due, "done", "" if next_us is None else next_us)

    async def reschedule(self, due: Due, pause_s: float = 0) -> bool:
        """End a claim with the work not done: the topic is due again in `pause_s`, and the attempt does not count.

        Return False if the claim was lost.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        how = "later" if due.tries else "failed"  # nothing to take back before `begin`
        return await self._end(due, how, int(pause_s * 1_000_000))

    async def fail(self, due: Due, pause_s: float) -> bool:
        """End a claim whose attempt has failed: the topic is due again in `pause_s`. Return False if it was lost.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._end(due, "failed", int(pause_s * 1_000_000))

    async def park(self, due: Due, reason: str) -> bool:
        """End a claim by taking the topic out of the queue. Return False if the claim was lost.

        The next `request`, `schedule_earlier`, `schedule_once` or `reopen` queues it again, for one attempt at first.

        Args:
            due: the claim.
            reason: why, for people.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        note = {"attempts": due.tries, "reason": reason[:REASON_MAX]}
        return await self._end(due, "parked", orjson.dumps(note), max(0, due.tries - 1))

    async def parked(self) -> dict[str, dict[str, Any]]:
        """Return the parked topics, each with its attempts and the reason.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (found,) = await run_commands(self._store, ("HGETALL", self._keys[3]))
        return {text_of(member): _note(note) for member, note in found.items()}

    def count_parked(self, batch: CommandPipeline) -> None:
        """Add to `batch` the query for the number of parked topics."""
        batch.command("HLEN", self._keys[3])

    async def retry(self, topic: str) -> bool:
        """Make a parked topic due now, even if it was queued for later since; return False if it is not parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        member = member_of(topic)
        (note,) = await run_commands(self._store, ("HGET", self._keys[3], member))
        if note is not None:
            await self._hasten([member])
        return note is not None

    async def drop(self, topic: str) -> bool:
        """Forget that a topic is parked; return False if it is not. It stays in the queue if it was queued since.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        member = member_of(topic)
        gone, _ = await run_commands(self._store, ("HDEL", self._keys[3], member), ("HDEL", self._keys[2], member))
        return bool(gone)

    async def reopen(self) -> int:
        """Make all parked topics due now, even if they were queued for later since; return their number.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (members,) = await run_commands(self._store, ("HKEYS", self._keys[3]))
        for start in range(0, len(members), PAGE):
            await self._hasten(members[start : start + PAGE])
        return len(members)

    async def _hasten(self, members: Sequence[bytes]) -> None:
        await run_script(self._store, _SCHEDULE, self._keys[:2], "", "LT", *members)

    async def _end(self, due: Due, how: str, value: int | str | bytes, kept: int | str = "") -> bool:
        claim = (due.member, due.lease, due.token)
        return bool(await run_script(self._store, _ACK, self._keys, *claim, how, value, kept))


def text_of(member: str | bytes) -> str:
    """Return a member as text; bytes that are not UTF-8 are escaped with backslashes."""
    return member if isinstance(member, str) else member.decode(errors="backslashreplace")


def member_of(text: str) -> bytes:
    """Return the member that `text_of` shows as `text`."""
    return re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes.fromhex(found[1].decode()), text.encode())


def _note(stored: bytes) -> dict[str, Any]:
    """Return what is stored about a parked member; if it is damaged, that is the reason."""
    try:
        note = orjson.loads(stored)
        return {"attempts": int(note["attempts"]), "reason": str(note["reason"])}
    except (ValueError, TypeError, LookupError):
        return {"attempts": 0, "reason": f"its note cannot be read: {stored[:60]!r}"}


def due_of(member: bytes, lease: bytes = b"", token: str = "-") -> Due:  # noqa: S107 - names a claim
    """Return a member that a script has claimed; without a lease for one that it has released to the caller."""
    topic = text_of(member)
    return Due(topic, lease, token, raw=b"" if topic.encode() == member else member)
