"""Links a subscription to a tenant by an operator's word: the strongest name, which moves it at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sync.billing.domain.outcome import ChangeRejected, EventResult, Outcome
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    UNSEEN,
    Link,
    Strength,
    SubscriptionRef,
    overruled_by_operator,
)
from sync.billing.services.committer import CONFLICTS_MAX, Committer
from sync.billing.services.context import BillingContext
from sync.billing.services.events.ingest import Ingest
from sync.billing.services.move import MOVED_TYPE, Moves
from sync.billing.storage.links import flip, read_stored
from sync.billing.storage.tenants import known_facts
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import StoreError


class Linked(NamedTuple):
    """What an operator's link has done.

    Attributes:
        was: the tenant that the subscription belonged to before; None if it had none.
        overruled: the tenant that its metadata names; "" if it names none. Once the metadata names another one, the
            operator's link no longer holds.
        result: `applied` if it has moved or was new, `unchanged` if it belonged to the tenant; `parked` if a tenant
            cannot be projected now: the move is completed with the next event, or by a repeated call.
    """

    was: str | None
    overruled: str
    result: EventResult


class OperatorLinks:
    """Sets operators' links of one store."""

    def __init__(self, context: BillingContext, committer: Committer, moves: Moves, ingest: Ingest) -> None:
        self._context = context
        self._store = context.store
        self._committer = committer
        self._moves = moves
        self._ingest = ingest

    async def link(self, ref: SubscriptionRef, tenant_id: str, reason: str, who: Mapping[str, str]) -> Linked:
        """Link a subscription to a tenant, move it there, and release the parked events that wait for its tenant.

        Args:
            tenant_id: a valid topic id.
            reason, who: go into the causes of the two tenants' versions.

        Raises:
            ChangeRejected: `tenant_erased`: the tenant is erased.
            StoreError: the store is unreachable or failing; a repeated call completes the move, and so does a worker.
        """
        topic = ref.topic(tenant_id)
        facts = known_facts(await self._committer.read(topic))
        if facts is not None and facts.erased_ns is not None:
            raise ChangeRejected("tenant_erased", f"{topic} was erased: revive it first")
        before = await self._flip(ref, tenant_id)
        cause = {"source": "operator", "event_type": MOVED_TYPE, "reason": reason, **who}
        moved = await self._moves.move(ref, await self._stored(ref), cause)
        overruled = overruled_by_operator(before)
        if isinstance(moved, EventResult):
            return Linked(before.tenant_id, overruled, moved)
        await self._moves.vouch(ref, moved, cause)
        await self._ingest.release(ref.environment, [ref.link_subject])
        snapshot = await self._committer.read(topic)
        facts = known_facts(snapshot)
        is_known = facts is not None and ref.key in facts.subscriptions
        reason = "" if is_known else f"no event of {ref.key} is applied yet: it counts from the first one that is"
        is_same = before.tenant_id == tenant_id and not before.left
        outcome = Outcome.UNCHANGED if is_same else Outcome.APPLIED
        result = EventResult(outcome, reason, topic, snapshot.version)
        return Linked(before.tenant_id, overruled, result)

    async def _flip(self, ref: SubscriptionRef, tenant_id: str) -> Link:
        """Store the operator's name, and give the link to the tenant; return the link as it was before."""
        for _ in range(CONFLICTS_MAX):
            link = await self._stored(ref)
            await self._arm(ref, {tenant_id, link.tenant_id or tenant_id} - {TOMBSTONE})
            overruled = overruled_by_operator(link) if await self._is_seen(ref, link) else UNSEEN
            if await flip(self._store, ref, link, tenant_id, Strength.OPERATOR, overruled):
                return link
        raise StoreError(f"{ref.key}: {CONFLICTS_MAX} other changes of its link came first")

    async def _arm(self, ref: SubscriptionRef, tenants: set[str]) -> None:
        """Have a worker look at the tenants when a lease has passed: it completes the move if this process stops."""
        batch = CommandPipeline(self._store)
        due_us = self._context.now_us + int(self._context.lease_s * 1_000_000)
        for tenant_id in sorted(tenants):
            self._committer.prepare(batch, ref.topic(tenant_id), due_us, enlists=False)
        await batch.run()

    async def _is_seen(self, ref: SubscriptionRef, link: Link) -> bool:
        """Return whether it is known which tenant the subscription's metadata names, if any."""
        if link.tenant_id in (None, TOMBSTONE):
            return False
        facts = known_facts(await self._store.read(ref.topic(str(link.tenant_id))))
        return bool(overruled_by_operator(link)) or (facts is not None and ref.key in facts.subscriptions)

    async def _stored(self, ref: SubscriptionRef) -> Link:
        return await read_stored(self._store, ref)
