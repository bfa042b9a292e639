"""Compares bills with what was quoted for them, and reports a quoted charge of which no bill has arrived.

The provider is asked for the bills before one is reported: an event of it may have been lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from sync.billing.domain.entitlements.awaited import is_billable
from sync.billing.domain.facts.drift import money_drift, unbilled_drift
from sync.billing.domain.facts.instructions import AwaitedBill
from sync.billing.domain.facts.model import FETCHED, Facts
from sync.billing.domain.money.model import Billed
from sync.billing.domain.money.quote import Quote
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.committer import Commit
from sync.billing.services.context import BillingContext
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.storage.quoted import claim_bill, find_quoted
from sync.store.command_pipeline import CommandPipeline

MAX_WAIT_S = 20.0
"""Maximum time for the provider's answer."""

_log = structlog.get_logger("sync.bills")


async def compare_bill(
    context: BillingContext, batch: CommandPipeline, environment: str, provider: str, billed: Billed, event_id: str
) -> None:
    """Add to `batch` the drift of a bill from what was quoted for it, once for each bill.

    Args:
        event_id: of the event that shows the bill, or FETCHED.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    ref = SubscriptionRef(environment, provider, billed.subscription_id)
    quoted = await find_quoted(context.store, ref)
    quote = quoted.of_bill(billed)
    if quote is None:
        return
    if await claim_bill(context.store, ref, quote, billed, event_id, quoted.kept_s(context.now_ns())):
        drift = money_drift(quote, billed, context.now_us)
        if drift is not None:
            context.environment(environment).drifts.add(batch, drift)


class AwaitedBills:
    """Ends the wait for the bills of tenants."""

    def __init__(self, context: BillingContext, reprojection: Reprojection) -> None:
        self._context = context
        self._reprojection = reprojection

    async def end_overdue(self, environment: str, commit: Commit) -> Commit:
        """Report the bills of a tenant that have not arrived in time; return the commit that ends the wait for them.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        facts = commit.decision.after
        overdue = [bill for bill in facts.awaited_bills if bill.due_ns <= self._context.now_ns()]
        if not overdue:
            return commit
        batch = CommandPipeline(self._context.store)
        for bill in overdue:
            await self._report(batch, environment, facts, bill)
        await batch.run()

        def end(now: Facts) -> Facts:
            return replace(now, awaited_bills=tuple([bill for bill in now.awaited_bills if bill not in overdue]))

        refresh = Refresh({"source": "timer", "event_type": "bills.overdue"}, change=end, arms=False)
        return await self._reprojection.refresh(environment, commit.topic, refresh)

    async def _report(self, batch: CommandPipeline, environment: str, facts: Facts, bill: AwaitedBill) -> None:
        provider, _, subscription_id = bill.subscription.partition(":")
        ref = SubscriptionRef(environment, provider, subscription_id)
        quote = await self._unbilled(ref, bill)
        if quote is None or not is_billable(facts, bill, quote):
            return
        for billed in await self._fetched(ref, quote, bill.reason):
            await compare_bill(self._context, batch, environment, provider, billed, FETCHED)
        if await self._unbilled(ref, bill) is not None:
            drift = unbilled_drift(quote, bill.reason, self._context.now_us)
            self._context.environment(environment).drifts.add(batch, drift)

    async def _unbilled(self, ref: SubscriptionRef, bill: AwaitedBill) -> Quote | None:
        """Return the quote of a bill that has not arrived; None if it has, or if the quote is not kept."""
        quoted = await find_quoted(self._context.store, ref)
        if (bill.preview_id, bill.reason) in quoted.claims:
            return None
        return next((quote for quote in quoted.kept if quote.preview_id == bill.preview_id), None)

    async def _fetched(self, ref: SubscriptionRef, quote: Quote, reason: str) -> Sequence[Billed]:
        """Return what the provider has billed since the change or the renewal; nothing if it cannot be asked."""
        client = self._context.clients.get((ref.provider, ref.environment))
        if client is None:
            return ()
        try:
            return await client.bills(ref.subscription_id, quote.billed_from_ns(reason), MAX_WAIT_S)
        except (ProviderUnavailable, ProviderRejected) as error:
            _log.warning("bills_not_fetched", topic=quote.topic, reason=str(error))
            return ()
