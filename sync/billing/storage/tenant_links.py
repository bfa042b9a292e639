"""Which tenant a provider's subscription and customer belong to, learned from the events that name it.

A subscription has one tenant, the first that was learned. A customer may pay for several; then it tells nothing.
"""

from __future__ import annotations

from typing import Any

from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    Link,
    customer_subject,
    is_unreal,
    subscription_subject,
)
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store

TENANTS_PER_CUSTOMER_READ = 2
"""Two tenants are enough to know that the customer does not tell which one is meant."""


class TenantLinks:
    """The links of one environment; each subject has a slot of its own."""

    def __init__(self, store: Store, environment: str) -> None:
        self._keys = store.keys
        self._environment = environment

    def query(self, batch: CommandPipeline, event: Event | Unparsable) -> None:
        """Add to `batch` the query for an event's tenant; an event that names one teaches the links.

        Nothing is added for an event that needs no tenant. `read` takes the replies.
        """
        if isinstance(event, Unparsable) or event.subscription_id is None or is_unreal(event):
            return
        if event.tenant_id is not None:
            self._learn(batch, event.provider, event.tenant_id, event.subscription_id, event.customer_id)
        elif event.subscription is not None:
            self.look_up(batch, event.provider, event.subscription_id, event.customer_id)

    @staticmethod
    def read(event: Event, replies: list[Any]) -> Link:
        """Return what the links say about an event, from the replies to `query`."""
        if event.tenant_id is None:
            return TenantLinks.looked_up(replies)
        known = replies[0]
        if known is not None and known.decode() != event.tenant_id:
            return Link(event.tenant_id, conflict=known.decode())
        return Link(event.tenant_id, known is None, len(replies) > 1 and bool(replies[1]))

    def look_up(self, batch: CommandPipeline, provider: str, subscription_id: str, customer_id: str | None) -> None:
        """Add to `batch` the query for a subscription's tenant; `looked_up` takes the replies."""
        batch.command("GET", self._key(subscription_subject(provider, subscription_id)))
        if customer_id is not None:
            batch.command("SRANDMEMBER", self._key(customer_subject(provider, customer_id)), TENANTS_PER_CUSTOMER_READ)

    @staticmethod
    def looked_up(replies: list[Any]) -> Link:
        """Return the link after `look_up`: the subscription's tenant, else the customer's only one, else none."""
        if replies[0] is not None:
            return Link(replies[0].decode())
        tenants = list(replies[1]) if len(replies) > 1 else []
        return Link(tenants[0].decode() if len(tenants) == 1 else None)

    def erase(
        self,
        batch: CommandPipeline,
        provider: str,
        tenant_id: str,
        subscription_id: str | None,
        customer_id: str | None,
    ) -> None:
        """Add to `batch` the end of what leads to a tenant; its subscription gets a TOMBSTONE."""
        if subscription_id is not None:
            batch.command("SET", self._key(subscription_subject(provider, subscription_id)), TOMBSTONE)
        if customer_id is not None:
            batch.command("SREM", self._key(customer_subject(provider, customer_id)), tenant_id)

    def _learn(
        self, batch: CommandPipeline, provider: str, tenant_id: str, subscription_id: str, customer_id: str | None
    ) -> None:
        subject = subscription_subject(provider, subscription_id)
        batch.command("SET", self._key(subject), tenant_id, "NX", "GET", get=True)
        if customer_id is not None:
            batch.command("SADD", self._key(customer_subject(provider, customer_id)), tenant_id)

    def _key(self, subject: str) -> str:
        return self._keys.link(self._environment, subject)
