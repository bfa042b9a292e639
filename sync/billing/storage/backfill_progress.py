"""The progress of a backfill: the last subscription taken, and the counts. Stored until the backfill is complete.

A lease allows one run at a time. It expires soon after a run is killed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.outcome import Outcome
from sync.billing.providers.base import ListedSubscription
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.lease import Lease, LeaseLostError
from sync.store.store import Store

LEASE_S = 4.0
"""Lease of a run: how long a killed run keeps others out."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result of one subscription: `applied`, `unchanged`, or `parked` with the `reason`.

    `drift` is the difference, if the tenant existed before the run.
    """

    outcome: Outcome
    reason: str = ""
    drift: Drift | None = None


@dataclass(slots=True)
class Counts:
    """The results so far. `after`: where the next run continues; `parked`: reasons by event id.

    `payments`: how many of the entries that were `seen` are purchases and refunds.
    """

    after: str = ""
    seen: int = 0
    payments: int = 0
    unchanged: int = 0
    drift: int = 0
    parked: dict[str, str] = field(default_factory=dict)


class BackfillProgress:
    """The progress of the backfill of one provider's environment. All its keys are in one slot.

    Attributes:
        lease: the lease of the current run.
        made_key: the key of the set of tenants that the backfill has created.
    """

    def __init__(self, store: Store, provider: str, environment: str) -> None:
        self._store = store
        names = ("counts", "parked", "made")
        self._counts, self._parked, self.made_key = (store.keys.backfill(environment, provider, name) for name in names)
        self.lease = Lease(store, store.keys.backfill(environment, provider, "lease"), LEASE_S)

    async def open(self, counts: Counts, *, restart: bool) -> None:
        """Load the last run's progress into `counts`; with `restart`, delete it first.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if restart:
            await self.forget()
        counted = ("after", "seen", "unchanged", "drift", "payments")
        (after, *numbers), parked = await run_commands(
            self._store, ("HMGET", self._counts, *counted), ("HGETALL", self._parked)
        )
        counts.after = (after or b"").decode()
        counts.seen, counts.unchanged, counts.drift, counts.payments = [int(number or 0) for number in numbers]
        counts.parked = {event_id.decode(): reason.decode() for event_id, reason in parked.items()}

    async def move(self, entry: ListedSubscription, result: ItemResult, *, is_payment: bool = False) -> None:
        """Store a subscription's result, so that the next run continues after it, and renew the lease.

        Raises:
            LeaseLostError: another run has taken the lease.
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        if result.outcome is Outcome.PARKED:
            batch.command("HSET", self._parked, entry.event_id, result.reason)
        is_unchanged, has_drift = result.outcome is Outcome.UNCHANGED, result.drift is not None
        counted = {"seen": 1, "unchanged": is_unchanged, "drift": has_drift, "payments": is_payment}
        for name, by in counted.items():
            batch.command("HINCRBY", self._counts, name, int(by))
        if entry.after:
            batch.command("HSET", self._counts, "after", entry.after)
        self.lease.add_acquire(batch)
        *_, is_held = await batch.run()
        if not is_held:
            raise LeaseLostError("another backfill has taken over: this one was paused for longer than its lease")

    async def forget(self) -> None:
        """Delete the progress: the next run starts at the beginning.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await run_commands(self._store, ("DEL", self._counts, self._parked, self.made_key))
