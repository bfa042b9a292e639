"""Drift: where what we published differed from what the provider says. Records are kept, counted and shown.

It neither looks for drift nor repairs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from sync.billing.domain.model import Subscription
from sync.core import instants
from sync.store import counters
from sync.store.command_pipeline import Batch
from sync.store.store import Store

RECORDS_KEPT = 1_000
"""How many records an environment keeps, about; the newest."""

KINDS = ("differs", "unknown_here", "unknown_there", "missed_event", "preview")
"""What can drift: a subscription's body, one that only the provider or only we know, an event that no webhook brought,
and a change that came out otherwise than its preview said."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `kind` is one of KINDS, `why` what had us look; `here` and `there` what was and what is so."""

    kind: str
    topic: str
    subject: str
    why: str
    at_us: int
    here: object = None
    there: object = None
    version: int = 0

    def shown(self) -> dict[str, object]:
        """Return the record as JSON shows it; `version` is the one that repaired it, if one did."""
        shown: dict[str, object] = {
            "kind": self.kind,
            "topic": self.topic,
            "subject": self.subject,
            "why": self.why,
            "at": instants.text(self.at_us * 1000),
            "here": self.here,
            "there": self.there,
            "version": self.version,
        }
        return {name: value for name, value in shown.items() if value not in (None, 0, "")}


def differences(here: Subscription | None, there: Subscription | None) -> tuple[object, object]:
    """Return of two bodies of a subscription what differs, by field."""
    left, right = ({} if body is None else fields(body) for body in (here, there))
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    return ({name: left.get(name) for name in names} if here else None), (
        {name: right.get(name) for name in names} if there else None
    )


def fields(body: Subscription) -> dict[str, object]:
    """Return a subscription's body as JSON shows it."""
    shown: dict[str, object] = {"status": body.status, "items": [list(item) for item in body.items]}
    if body.customer_id is not None:
        shown["customer_id"] = body.customer_id
    if body.period is not None:
        shown["period"] = [instants.text(ns) for ns in body.period]
    if body.trial_ends_ns is not None:
        shown["trial_ends_at"] = instants.text(body.trial_ends_ns)
    if body.scheduled is not None:
        action, effective_ns, resume_ns = body.scheduled
        shown["scheduled"] = [action, *(instants.text(ns) for ns in (effective_ns, resume_ns) if ns is not None)]
    return shown


class DriftLog:
    """The drift records of one environment."""

    def __init__(self, store: Store, environment: str) -> None:
        """Use `store`."""
        self._store = store
        head = store.keys.head(f"drift/{environment}")
        self._records, self._counts = f"{head}:records", f"{head}:counts"
        self._tally = {kind: counters.field("drift", kind=kind, env=environment) for kind in KINDS}

    def add(self, batch: Batch, drift: Drift) -> None:
        """Add to `batch` that this was found."""
        record = orjson.dumps(drift.shown())
        batch.command("XADD", self._records, "MAXLEN", "~", RECORDS_KEPT, "*", "record", record)
        batch.command("HINCRBY", self._counts, drift.kind, 1)
        batch.command("HINCRBY", self._store.keys.counters, self._tally[drift.kind], 1)

    async def page(self, before: str, count: int) -> tuple[list[dict[str, object]], str]:
        """Return up to `count` records, the newest first, older than the cursor `before`, and the next cursor or "".

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self._store)
        batch.command("XREVRANGE", self._records, f"({before}" if before else "+", "-", "COUNT", count)
        (entries,) = await batch.run()
        records = [orjson.loads(fields[b"record"]) for _, fields in entries]
        return records, entries[-1][0].decode() if len(entries) == count else ""

    async def erase(self, topic: str) -> None:
        """Remove every record about a topic; the counts stay.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self._store)
        batch.command("XRANGE", self._records, "-", "+")
        (entries,) = await batch.run()
        ids = [id for id, fields in entries if orjson.loads(fields[b"record"]).get("topic") == topic]
        if ids:
            batch = Batch(self._store)
            batch.command("XDEL", self._records, *ids)
            await batch.run()

    async def counts(self) -> dict[str, int]:
        """Return how many of each kind were ever found, all kinds included.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self._store)
        batch.command("HMGET", self._counts, *KINDS)
        (values,) = await batch.run()
        return {kind: int(value or 0) for kind, value in zip(KINDS, values, strict=True)}
