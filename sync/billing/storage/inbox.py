"""The inbox: every verified event is stored here before its delivery is answered.

An event is pending (a worker holds it, or will claim it when the lease expires), parked (it waits on something: a link,
the catalog) or done. A done event is kept as long as the provider may send it again; its body is kept only if the state
does not contain it. A parked event is kept until it is used.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.domain.outcome import EventResult, Outcome
from sync.store.command_pipeline import CommandPipeline, Script, failure, run_commands, run_script
from sync.store.delayed_queue import DelayedQueue, Due, member_of, text_of
from sync.store.models import StoreRejected
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
_BEGIN = Script.load(__package__, "inbox_begin")
_POSTPONE = Script.load(__package__, "inbox_postpone")
_SET_ASIDE = Script.load(__package__, "inbox_set_aside")

_FIELDS = ("body", "received_us", "attempts", "tries", "provider", "type", "status", "reason", "topic", "waits")

UNREADABLE = "unreadable"
"""The status of a record that cannot be read: its key holds another type."""


@dataclass(frozen=True, slots=True)
class Record:
    """One stored event.

    Attributes:
        attempts: all attempts so far, for people.
        tries: attempts since the last one that ended, which is 0 for a record that was not begun.
        waits: what a parked event waits on.
        parked_us: when it was parked, microseconds since 1970; 0 if it is not parked.
        claim: the claim of the caller that has begun it, else "".
    """

    event_id: str
    body: bytes
    received_us: int
    attempts: int
    tries: int
    parked_us: int
    provider: str
    type: str
    status: str
    reason: str
    topic: str
    waits: tuple[str, ...]
    claim: str = ""

    @property
    def id(self) -> str:
        """The event's id, for logs."""
        return self.event_id


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

    def end(
        self, batch: CommandPipeline, event_id: str, result: EventResult, *, again: bool = False, claim: str = ""
    ) -> None:
        """Add to `batch` the end of an event's processing; it has no effect if another has claimed the event since.

        Args:
            again: a parked event is retried once after a lease, unless `cancel_retry` comes first.
            claim: the caller's claim; "" ends the event whoever has claimed it.
        """
        keys = (self._event_head + event_id, self._pending, self._parked, self._waiting)
        waits, body = "\n".join(result.waits), "keep" if result.outcome in BODY_KEPT and result.keeps_body else ""
        # An applied event with an unknown price waits as well.
        outcome = Outcome.PARKED if result.waits else result.outcome
        fields = (event_id, outcome, result.reason, result.topic, result.version, waits)
        batch.script(_FINISH, keys, *fields, KEEP_DONE_S * 1000, body, self._lease_us if again else "", claim)

    def cancel_retry(self, batch: CommandPipeline, event_id: str) -> None:
        """Take a parked event out of the retry queue: only what it waits on releases it."""
        batch.script(_CANCEL_RETRY, (self._event_head + event_id, self._pending, self._waiting), event_id)

    def postpone(
        self, batch: CommandPipeline, event_id: str, until_us: int, claim: str = "", *, counts: bool = False
    ) -> None:
        """Add to `batch` the next attempt at a claimed event, at `until_us` instead of the end of its lease.

        Args:
            claim: the caller's claim; "" for none.
            counts: whether the present attempt counts, as one that failed.
        """
        keys = (self._event_head + event_id, self._pending)
        batch.script(_POSTPONE, keys, event_id, until_us, claim, "1" if counts else "")

    def set_aside(self, batch: CommandPipeline, event_id: str | bytes) -> None:
        """Add to `batch` the parking of an event whose record cannot be read."""
        batch.script(_SET_ASIDE, (self._pending, self._parked), event_id)

    def discard(self, batch: CommandPipeline, event_id: str) -> None:
        """Add to `batch` the removal of an event whose record cannot be read."""
        member = member_of(event_id)
        batch.command("DEL", self._event_key(member))
        for listed in (self._pending, self._parked):
            batch.command("ZREM", listed, member)

    def drop_body(self, batch: CommandPipeline, event_id: str) -> None:
        """Add to `batch` the removal of a done event's body; id and outcome stay, so that it is still a duplicate.

        An event that is not done still needs its body and keeps it.
        """
        batch.script(_DROP_BODY, (self._event_head + event_id,))

    async def claim(self, count: int) -> list[Due]:
        """Claim up to `count` due events, for `begin`.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._retries.claim(count)

    async def begin(self, due: Due) -> Record | None:
        """Count an attempt at an event and claim it for the caller; return it, or None if nothing is left to do.

        Args:
            due: the caller's claim, whose lease is renewed; without a lease for an event that is parked, or that the
                caller has just released.

        Raises:
            StoreError: the store is unreachable or failing.
            StoreRejected: the record cannot be read.
        """
        keys, claim = (self._event_key(due.member), self._pending), secrets.token_hex(8)
        arguments = (due.member, due.lease, self._lease_us, claim)
        fields = await run_script(self._store, _BEGIN, keys, *arguments, *_FIELDS)
        return replace(_record(due.id, fields, None), claim=claim) if fields else None

    def _event_key(self, event_id: str | bytes) -> str | bytes:
        return self._event_head + event_id if isinstance(event_id, str) else self._event_head.encode() + event_id

    def release(self, batch: CommandPipeline, waits_on: str, count: int, *, claim: bool = True) -> None:
        """Add to `batch` the release of up to `count` parked events that wait on `waits_on`: they are pending again.

        With `claim` they are claimed by the caller, who passes each id in the reply to `begin`. Else workers may claim
        them.
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
        return next(iter(await self._records([member_of(event_id)])), None)

    async def parked(self, after: tuple[int, str] | None, count: int) -> list[Record]:
        """Return up to `count` parked events, the longest parked first, behind `after` (parked_us, event_id).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        start = "-inf" if after is None else after[0]
        # Those parked in the same microsecond as `after` come again and are dropped below.
        listing = ("ZRANGE", self._parked, start, "+inf", "BYSCORE", "LIMIT", 0, count + 100)
        (ids,) = await run_commands(self._store, listing)
        records = await self._records(ids)
        # Time 0: no longer parked.
        return [record for record in records if (record.parked_us, record.event_id) > (after or (1, ""))][:count]

    async def counts(self) -> tuple[int, int]:
        """Return how many events are pending and how many are parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        pending, parked = await run_commands(self._store, ("ZCARD", self._pending), ("ZCARD", self._parked))
        return int(pending), int(parked)

    async def _records(self, ids: Sequence[str | bytes]) -> list[Record]:
        batch = CommandPipeline(self._store)
        for id in ids:
            batch.command("HMGET", self._event_key(id), *_FIELDS)
            batch.command("ZSCORE", self._parked, id)
        replies = await batch.attempt()
        found = zip(map(text_of, ids), replies[::2], replies[1::2], strict=True)
        return [record for id, fields, since in found if (record := _stored(id, fields, since)) is not None]


def _stored(event_id: str, fields: Any, parked_us: Any) -> Record | None:
    """Return a record from the replies about it; None if there is none. One that cannot be read says so."""
    if isinstance(parked_us, Exception):
        raise failure(parked_us) from parked_us
    if not isinstance(fields, Exception):
        return _record(event_id, fields, parked_us) if fields[0] is not None else None
    rejection = failure(fields)
    if not isinstance(rejection, StoreRejected):
        raise rejection from fields
    reason = f"its record cannot be read: {rejection}"
    return Record(event_id, b"", 0, 0, 0, _number(parked_us), "", "", UNREADABLE, reason, "", ())


def _record(event_id: str, fields: Sequence[bytes | None], parked_us: float | None) -> Record:
    body, received_us, attempts, tries, *rest = fields
    provider, type, status, reason, topic, waits = [(text or b"").decode(errors="replace") for text in rest]
    numbers = _number(received_us), _number(attempts), _number(tries), _number(parked_us)
    return Record(event_id, body or b"", *numbers, provider, type, status, reason, topic, tuple(waits.split()))


def _number(value: bytes | float | None) -> int:
    """Return a stored number; 0 if it is missing or is none."""
    try:
        return int(float(value or 0))
    except (ValueError, OverflowError):
        return 0
