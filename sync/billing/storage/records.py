"""Records about a tenant, for people to read: event log, provider snapshots, previews, drift."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import orjson

from sync.billing.domain.facts.drift import KINDS, Drift, shown_fields
from sync.billing.domain.facts.model import Event, subscription_key
from sync.billing.domain.outcome import EventResult
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline, Script, run_commands
from sync.store.store import Store

EVENTS_KEPT = 200
"""Approximate number of entries in a topic's event log; the newest are kept."""

DRIFT_KEPT = 1_000
"""Approximate number of drift records of an environment; the newest are kept."""

PREVIEW_KEEP_S = 3_600
"""How long a preview may be confirmed: later the provider's price may have changed."""

PREVIEWS_KEPT = 100
"""Maximum previews of one tenant; beyond it the oldest cannot be confirmed."""

_APPEND = Script.load(__package__, "event_log_append")


def append_event(
    batch: CommandPipeline,
    topic: str,
    event_id: str,
    type: str,
    result: EventResult,
    at_us: int,
    *,
    since_us: int | None = None,
    any_end: bool = False,
) -> None:
    """Add to `batch` an entry in a topic's event log. It is written once, even if the batch is sent again.

    Args:
        since_us: when the event may have been logged first: an entry of it since then is this one, written by another
            attempt; None if the event is logged by one caller only, at `at_us`.
        any_end: whether such an entry may give another reason, and another outcome unless one of the two is "parked".
    """
    entry = (event_id, type, result.outcome, result.reason, at_us)
    id = f"{at_us // 1000}-{crc32(f'{event_id} {type} {result.outcome} {at_us}'.encode())}"
    since = "" if since_us is None else f"{since_us // 1000}-0"
    batch.script(_APPEND, (batch.keys.events(topic),), id, EVENTS_KEPT, *entry, since, int(any_end))


def who_and_why(cause: Mapping[str, str]) -> str:
    """Return what a cause says of an operator's act, for an entry in the event log; "" if it is none."""
    return "".join([f"; {name}: {cause[name]}" for name in ("override", "reason", "claimed_by", "by") if name in cause])


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """A provider's answer about a subscription: the time of the request, and the body; None if it does not have it."""

    at_us: int
    body: dict[str, Any] | None


def record_snapshots(
    batch: CommandPipeline, topic: str, fetched: Sequence[Event], missing: Sequence[str] = (), at_us: int = 0
) -> None:
    """Add to `batch` the provider's last answers about a tenant's subscriptions.

    Args:
        missing: the keys of subscriptions that the provider does not have, as of `at_us`.
    """
    answers: dict[str, dict[str, object]] = {key: {"at_us": at_us, "body": None} for key in missing}
    for event in fetched:
        if event.subscription is not None:
            key = subscription_key(event.provider, event.subscription.id)
            answers[key] = {"at_us": event.order.occurred_ns // 1000, "body": shown_fields(event.subscription)}
    for key, answer in answers.items():
        batch.command("HSET", batch.keys.provider_snapshots(topic), key, orjson.dumps(answer))


async def load_snapshots(store: Store, topic: str) -> dict[str, ProviderSnapshot]:
    """Return the last answer about each subscription, by its key. One that was never fetched is absent.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (found,) = await run_commands(store, ("HGETALL", store.keys.provider_snapshots(topic)))
    return {key.decode(): ProviderSnapshot(**orjson.loads(value)) for key, value in found.items()}


async def put_preview(store: Store, topic: str, preview_id: str, document: dict[str, object]) -> None:
    """Store a tenant's preview.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    key = store.keys.previews(topic)
    kept = {"id": preview_id, "until_s": time.time() + PREVIEW_KEEP_S, "document": document}
    add = ("XADD", key, "MAXLEN", PREVIEWS_KEPT, "*", "preview", orjson.dumps(kept))
    await run_commands(store, add, ("EXPIRE", key, PREVIEW_KEEP_S))


async def get_preview(store: Store, topic: str, preview_id: str) -> dict[str, Any] | None:
    """Return a preview's document, or None if it is too old or of another tenant.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    (entries,) = await run_commands(store, ("XREVRANGE", store.keys.previews(topic), "+", "-"))
    for _, fields in entries:
        kept = orjson.loads(fields[b"preview"])
        if kept["id"] == preview_id and time.time() < kept["until_s"]:
            document: dict[str, Any] = kept["document"]
            return document
    return None


class DriftLog:
    """The drift records of one environment, about the newest DRIFT_KEPT, and the total of each kind ever recorded.

    Those of the kind `shadow` are kept apart, as many again: one wrong word in the catalog makes thousands of them.
    """

    def __init__(self, store: Store, environment: str) -> None:
        self._store = store
        self._environment = environment
        names = ("records", "shadow", "counts")
        self._records, self._shadow, self._counts = (store.keys.drift(environment, name) for name in names)

    def add(self, batch: CommandPipeline, drift: Drift) -> None:
        """Add to `batch` a record."""
        record = orjson.dumps(drift.shown())
        stream = self._shadow if drift.kind == "shadow" else self._records
        batch.command("XADD", stream, "MAXLEN", "~", DRIFT_KEPT, "*", "record", record)
        batch.command("HINCRBY", self._counts, drift.kind, 1)
        counter = counters.field("drift", kind=drift.kind, env=self._environment)
        batch.command("HINCRBY", batch.keys.counters, counter, 1)

    async def page(self, before: str, count: int) -> tuple[list[dict[str, object]], str]:
        """Return up to `count` records, the newest first, older than the cursor `before`, and the next cursor or "".

        Raises:
            StoreError: the store is unreachable or failing.
        """
        newest = f"({before}" if before else "+"
        streams = (self._records, self._shadow)
        found = await run_commands(self._store, *(("XREVRANGE", one, newest, "-", "COUNT", count) for one in streams))
        entries = sorted((entry for part in found for entry in part), key=_entry_id, reverse=True)[:count]
        records = [orjson.loads(fields[b"record"]) for _, fields in entries]
        return records, entries[-1][0].decode() if len(entries) == count else ""

    async def erase(self, topic: str) -> None:
        """Remove every record about a topic; the counts stay.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        for stream in (self._records, self._shadow):
            (entries,) = await run_commands(self._store, ("XRANGE", stream, "-", "+"))
            ids = [id for id, fields in entries if orjson.loads(fields[b"record"]).get("topic") == topic]
            if ids:
                await run_commands(self._store, ("XDEL", stream, *ids))

    async def counts(self) -> dict[str, int]:
        """Return the total of each kind ever recorded, for every kind.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        (values,) = await run_commands(self._store, ("HMGET", self._counts, *KINDS))
        return {kind: int(value or 0) for kind, value in zip(KINDS, values, strict=True)}


def _entry_id(entry: tuple[bytes, object]) -> tuple[int, ...]:
    """Return the id of a stream's entry, for comparison: milliseconds and a number."""
    return tuple(map(int, entry[0].split(b"-")))
