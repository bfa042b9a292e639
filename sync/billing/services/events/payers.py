"""What a payment was for, where an event about it does not say: a refund, or one-time items beside a subscription."""

from __future__ import annotations

from dataclasses import replace

import structlog

from sync.billing.domain.facts.model import ENDED_STATUSES, NOTHING, Event
from sync.billing.domain.tenant_resolution import TOMBSTONE, Link, SubscriptionRef, tenant_topic
from sync.billing.providers.base import ProviderRejected
from sync.billing.services.context import BillingContext
from sync.billing.services.events.fetch import BACKGROUND_MAX_WAIT_S, FETCH_MAX_WAIT_S
from sync.billing.storage.customers import CANDIDATES_MAX, read_customer
from sync.billing.storage.links import read_stored
from sync.billing.storage.tenants import known_facts

_log = structlog.get_logger("sync.pipeline")


class Payers:
    """Tells what the payments of one store were for. Every method may raise StoreError."""

    def __init__(self, context: BillingContext) -> None:
        self._context = context
        self._store = context.store

    async def refunded(self, event: Event, link: Link, *, background: bool = False) -> tuple[Event, Link]:
        """Return a refund of an unknown payment as that of the subscription or purchase that was paid, with its link.

        The provider knows what was paid; else the customer's only live subscription was. What neither tells stays.

        Raises:
            ProviderUnavailable: the provider did not answer.
        """
        client = self._context.clients.get((event.provider, event.environment))
        max_wait_s = BACKGROUND_MAX_WAIT_S if background else FETCH_MAX_WAIT_S
        found = None
        if client is not None and event.subscription_id is not None:
            try:
                found = await client.paid_for(event.subscription_id, max_wait_s, background=background)
            except ProviderRejected as error:  # the API key may not read invoices
                _log.warning("payment_not_read", payment=event.subscription_id, reason=str(error))
        if found is None or event.refund is None:
            return await self.of_customers_subscription(event, link)
        refund = event.refund._replace(is_of_subscription=found.is_subscription)
        if refund.amount and found.total is not None and refund.amount >= found.total:
            refund = refund._replace(is_full=True)
        event = replace(event, subscription_id=found.id, refund=refund)
        return event, await read_stored(self._store, SubscriptionRef.of(event))

    async def candidates(self, event: Event) -> list[str]:
        """Return the tenant that has the subscription with whose payment a purchase was made, if it is of one."""
        body = event.subscription
        if body is None or body.purchase is None or not body.purchase.subscription_id:
            return []
        paying = SubscriptionRef(event.environment, event.provider, body.purchase.subscription_id)
        tenant_id = (await read_stored(self._store, paying)).tenant_id
        return [] if tenant_id in (None, TOMBSTONE) else [str(tenant_id)]

    async def of_customers_subscription(self, event: Event, link: Link) -> tuple[Event, Link]:
        """Return a refund as that of its customer's only live subscription, with its link, if there is just one.

        Stripe's charges say that they are a subscription's, but not of which.
        """
        refund = event.refund
        if refund is None or not refund.is_of_subscription or event.customer_id is None:
            return event, link
        found: list[str] = []
        paid = (await read_customer(self._store, event)).subscriptions
        for tenant_id in sorted(set(paid.values()))[:CANDIDATES_MAX]:
            facts = known_facts(await self._store.read(tenant_topic(event.environment, tenant_id))) or NOTHING
            for entry in facts.recurring.values():
                body = entry.subscription
                if entry.customer == (event.provider, event.customer_id) and body.status not in ENDED_STATUSES:
                    found.append(body.id)
        if len(found) != 1:
            return event, link
        event = replace(event, subscription_id=found[0])
        return event, await read_stored(self._store, SubscriptionRef.of(event))
