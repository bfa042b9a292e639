"""Which tenant a provider's subscription and customer belong to, learned from the events that name it.

A subscription has one tenant, the first that was learned; a customer may pay for several, and then says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sync.store.command_pipeline import Batch
from sync.store.store import Store

ERASED = "!erased"
"""Whose a subscription is whose tenant was erased: nobody's. No tenant can be called so."""

TENANTS_PER_CUSTOMER_READ = 2
"""Two are enough to know that a customer does not tell which tenant is meant."""


@dataclass(frozen=True, slots=True)
class Link:
    """What is known of an event's tenant. `learned`: subscription or customer were told for the first time just now."""

    tenant_id: str | None
    learned_subscription: bool = False
    learned_customer: bool = False
    conflict: str | None = None


def subscription_subject(provider: str, subscription_id: str) -> str:
    """Return what an event waits on whose subscription has no tenant yet."""
    return f"subscription:{provider}:{subscription_id}"


def customer_subject(provider: str, customer_id: str) -> str:
    """Return what an event waits on whose customer has no tenant yet."""
    return f"customer:{provider}:{customer_id}"


class TenantLinks:
    """The links of one environment; each subject has a slot of its own."""

    def __init__(self, store: Store, environment: str) -> None:
        self._keys = store.keys
        self._environment = environment

    def _key(self, subject: str) -> str:
        return self._keys.head(f"link/{self._environment}/{subject}")

    def learn(self, batch: Batch, provider: str, tenant_id: str, subscription_id: str, customer_id: str | None) -> None:
        """Add to `batch` that an event names its tenant; `learned` reads the replies."""
        batch.command(
            "SET", self._key(subscription_subject(provider, subscription_id)), tenant_id, "NX", "GET", get=True
        )
        if customer_id is not None:
            batch.command("SADD", self._key(customer_subject(provider, customer_id)), tenant_id)

    @staticmethod
    def learned(tenant_id: str, replies: list[Any]) -> Link:
        """Return the link after `learn`; on `conflict` the subscription belongs to that other tenant."""
        known = replies[0]
        if known is not None and known.decode() != tenant_id:
            return Link(tenant_id, conflict=known.decode())
        return Link(tenant_id, known is None, len(replies) > 1 and bool(replies[1]))

    def erase(
        self, batch: Batch, provider: str, tenant_id: str, subscription_id: str | None, customer_id: str | None
    ) -> None:
        """Add to `batch` that nothing leads to this tenant any more; the subscription is known for an erased one's."""
        if subscription_id is not None:
            batch.command("SET", self._key(subscription_subject(provider, subscription_id)), ERASED)
        if customer_id is not None:
            batch.command("SREM", self._key(customer_subject(provider, customer_id)), tenant_id)

    def look_up(self, batch: Batch, provider: str, subscription_id: str, customer_id: str | None) -> None:
        """Add to `batch` the question whose an event is that does not say so; `looked_up` reads the replies."""
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
