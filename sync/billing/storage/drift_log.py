"""The drift records of one environment, the newest about RECORDS_KEPT, and how many of each kind there ever were."""

from __future__ import annotations

import orjson

from sync.billing.domain.drift import KINDS, Drift
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store

RECORDS_KEPT = 1_000
"""How many records an environment keeps, about; the newest."""


class DriftLog:
    """The drift records of one environment."""

    def __init__(self, store: Store, environment: str) -> None:
        """Use `store`."""
        self._store = store
        self._records, self._counts = (store.keys.drift(environment, name) for name in ("records", "counts"))
        self._tally = {kind: counters.field("drift", kind=kind, env=environment) for kind in KINDS}

    def add(self, batch: CommandPipeline, drift: Drift) -> None:
        """Add to `batch` a record."""
        record = orjson.dumps(drift.shown())
        batch.command("XADD", self._records, "MAXLEN", "~", RECORDS_KEPT, "*", "record", record)
        batch.command("HINCRBY", self._counts, drift.kind, 1)
        batch.command("HINCRBY", self._store.keys.counters, self._tally[drift.kind], 1)

    async def page(self, before: str, count: int) -> tuple[list[dict[str, object]], str]:
        """Return up to `count` records, the newest first, older than the cursor `before`, and the next cursor or "".

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        batch.command("XREVRANGE", self._records, f"({before}" if before else "+", "-", "COUNT", count)
        (entries,) = await batch.run()
        records = [orjson.loads(fields[b"record"]) for _, fields in entries]
        return records, entries[-1][0].decode() if len(entries) == count else ""

    async def erase(self, topic: str) -> None:
        """Remove every record about a topic; the counts stay.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        batch.command("XRANGE", self._records, "-", "+")
        (entries,) = await batch.run()
        ids = [id for id, fields in entries if orjson.loads(fields[b"record"]).get("topic") == topic]
        if ids:
            batch = CommandPipeline(self._store)
            batch.command("XDEL", self._records, *ids)
            await batch.run()

    async def counts(self) -> dict[str, int]:
        """Return how many records of each kind there ever were; every kind is in it.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        batch.command("HMGET", self._counts, *KINDS)
        (values,) = await batch.run()
        return {kind: int(value or 0) for kind, value in zip(KINDS, values, strict=True)}
