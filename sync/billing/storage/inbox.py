"""The inbox: every verified event is stored here before its delivery is answered.

An event is pending (a worker holds it, or will claim it when the lease expires), parked (it waits on something: a link,
the catalog) or done. A done event is kept as long as the provider may send it again; its body is kept only if the state
does not contain it. A parked event is kept until it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import EventResult, Outcome
from sync.store.command_pipeline import CommandPipeline, Script, run_commands
from sync.store.delayed_queue import DelayedQueue
from sync.store.store import Store

KEEP_DONE_S = 7 * 86_400
"""How long a done event is kept: longer than any provider retries (3 days)."""

REOPENED_AT_ONCE = 100
"""How many parked events one command makes pending again."""

BODY_KEPT = (Outcome.REFUSED, Outcome.IGNORED)
"""The outcomes of done events that keep their bodies."""

_PUT = Script.load(__package__, "inbox_put")
_FINISH = Script.load(__package__, "inbox_finish")
_RELEASE = Script.load(__package__, "inbox_release")
_CANCEL_RETRY = Script.load(__package__, "inbox_cancel_retry")
_DROP_BODY = Script.load(__package__, "inbox_drop_body")

_FIELDS = ("body", "received_us", "attempts", "provider", "type", "status", "reason", "topic", "waits")


@dataclass(frozen=True, slots=True)
class Record:
    """One stored event.

    Attributes:
        waits: what a parked event waits on.
        parked_us: when it was parked, microseconds since 1970; 0 if it is not parked.
    """

    event_id: str
    body: bytes
    received_us: int
    attempts: int
    parked_us: int
    provider: str
    type: str
    status: str
    reason: str
    topic: str
    waits: tuple[str, ...]


class Claim(NamedTuple):
    """A stored event that the caller should process.

    Attributes:
        number: number of attempts, this one included; 0 for a parked event, which is retried without a lease.
        received_us: when the event was first received, microseconds since 1970.
    """

    number: int
    received_us: int


class Inbox:
    """The inbox of one environment. All its keys are in one slot."""

    def __init__(self, store: Store, environment: str, lease_s: float) -> None:
        self._store = store
        self._lease_us = int(lease_s * 1_000_000)
        names = ("pending", "parked", "waiting", "event:")
        self._pending, self._parked, self._waiting, self._event_head = (store.keys.inbox(environment, n) for n in names)
        self._retries = DelayedQueue(store, self._pending, lease_s, is_fenced=False)

    def put(
        self, batch: CommandPipeline, event: Event | Unparsable, body: bytes, provider: str, at_us: int, claim: str = ""
    ) -> None:
        """Add to `batch` the storing of an event that was received at `at_us`; parse the reply with `put_reply`.

        `claim` identifies this delivery: if its first answer is lost and it is sent again, it claims the event again.
        """
        fields = (event.event_id, body, provider, event.type, at_us, self._lease_us, claim)
        batch.script(_PUT, (self._event_head + event.event_id, self._pending), *fields)

    @staticmethod
    def put_reply(reply: Any) -> EventResult | Claim:
        """Return the claim if the caller should process the event, else the duplicate's result."""
        status, outcome, version, number, received_us = reply
        status = status.decode()
        if status == "done":
            return EventResult(Outcome.DUPLICATE, outcome.decode(), version=int(version))
        if status == "pending":
            # Another delivery is being processed. If its process died, a worker retries the event.
            return EventResult(Outcome.DUPLICATE)
        return Claim(int(number), int(received_us))

    def end(self, batch: CommandPipeline, event_id: str, result: EventResult, *, again: bool = False) -> None:
        """Add to `batch` the end of an event's processing.

        `again`: a parked event is retried once after a lease, unless `cancel_retry` comes first.
        """
        keys = (self._event_head + event_id, self._pending, self._parked, self._waiting)
        waits, body = "\n".join(result.waits), "keep" if result.outcome in BODY_KEPT and result.keeps_body else ""
        # An applied event with an unknown price waits as well.
        outcome = Outcome.PARKED if result.waits else result.outcome
        fields = (event_id, outcome, result.reason, result.topic, result.version, waits)
        batch.script(_FINISH, keys, *fields, KEEP_DONE_S * 1000, body, self._lease_us if again else "")

    def cancel_retry(self, batch: CommandPipeline, event_id: str) -> None:
        """Take a parked event out of the retry queue: only what it waits on releases it."""
        batch.script(_CANCEL_RETRY, (self._event_head + event_id, self._pending, self._waiting), event_id)

    def postpone(self, batch: CommandPipeline, event_id: str, until_us: int) -> None:
        """Add to `batch` the next attempt at a claimed event, at `until_us` instead of the end of its lease."""
        batch.command("ZADD", self._pending, "XX", until_us, event_id)

    def drop_body(self, batch: CommandPipeline, event_id: str) -> None:
        """Add to `batch` the removal of a done event's body; id and outcome stay, so that it is still a duplicate.

        An event that is not done still needs its body and keeps it.
        """
        batch.script(_DROP_BODY, (self._event_head + event_id,))

    async def claim(self, count: int) -> list[Record]:
        """Claim up to `count` due events, count an attempt for each, and return them.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self.tried([due.topic for due in await self._retries.claim(count)])

    def release(self, batch: CommandPipeline, waits_on: str, count: int, *, claim: bool = True) -> None:
        """Add to `batch` the release of up to `count` parked events that wait on `waits_on`: they are pending again.

        With `claim` they are claimed by the caller, who passes the reply to `tried`. Else workers may claim them.
        """
        lease_us = self._lease_us if claim else 0
        batch.script(_RELEASE, (self._pending, self._waiting), waits_on, lease_us, count)

    async def reopen(self, waits_on: str) -> int:
        """Make all parked events that wait on `waits_on` pending, for workers to claim; return their number.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        seen: set[bytes] = set()
        while True:
            batch = CommandPipeline(self._store)
            self.release(batch, waits_on, REOPENED_AT_ONCE, claim=False)
            (ids,) = await batch.run()
            # A repeated id was retried and parked meanwhile: then all others have been released too.
            if not ids or not seen.isdisjoint(ids):
                return len(seen)
            seen.update(ids)

    async def read(self, event_id: str) -> Record | None:
        """Return one event, or None if there is none.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return next(iter(await self._records([event_id])), None)

    async def parked(self, after: tuple[int, str] | None, count: int) -> list[Record]:
        """Return up to `count` parked events, the longest parked first, behind `after` (parked_us, event_id).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        start = "-inf" if after is None else after[0]
        # Those parked in the same microsecond as `after` come again and are dropped below.
        listing = ("ZRANGE", self._parked, start, "+inf", "BYSCORE", "LIMIT", 0, count + 100)
        (ids,) = await run_commands(self._store, listing)
        records = await self._records([id.decode() for id in ids])
        # Time 0: no longer parked.
        return [record for record in records if (record.parked_us, record.event_id) > (after or (1, ""))][:count]

    async def counts(self) -> tuple[int, int]:
        """Return how many events are pending and how many are parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pending, parked = await run_commands(self._store, ("ZCARD", self._pending), ("ZCARD", self._parked))
        return int(pending), int(parked)

    async def tried(self, claimed: Sequence[str]) -> list[Record]:
        """Count an attempt for each of these claimed events, and return them.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await run_commands(self._store, *(("HINCRBY", self._event_head + id, "attempts", 1) for id in claimed))
        return await self._records(claimed)

    async def _records(self, ids: Sequence[str]) -> list[Record]:
        batch = CommandPipeline(self._store)
        for id in ids:
            batch.command("HMGET", self._event_head + id, *_FIELDS)
            batch.command("ZSCORE", self._parked, id)
        replies = await batch.run()
        found = zip(ids, replies[::2], replies[1::2], strict=True)
        return [_record(id, fields, since) for id, fields, since in found if fields[0] is not None]


def _record(event_id: str, fields: Sequence[bytes | None], parked_us: float | None) -> Record:
    body, received_us, attempts, *rest = fields
    provider, type, status, reason, topic, waits = [(text or b"").decode() for text in rest]
    numbers = int(received_us or 0), int(attempts or 0), int(float(parked_us or 0))
    return Record(event_id, body or b"", *numbers, provider, type, status, reason, topic, tuple(waits.split()))
