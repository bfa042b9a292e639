"""Dodo Payments as a test double: a provider of Standard Webhooks is a parser, and an entry in the registry.

Its events show the subscription without a time of modification, and products instead of prices; add-ons are items.
Shaped after https://docs.dodopayments.com/developer-resources/webhooks/intents/subscription
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sync.billing.domain.facts.model import EXPIRED, Event, Item, Order, Period, Scheduled, Subscription
from sync.billing.providers import parsing
from sync.billing.providers.base import ProviderClient, ProviderPreview, RateLimiter
from sync.billing.providers.hmac_signature import SignedWebhooks
from sync.billing.providers.settings import ProviderSettings
from sync.billing.providers.spec import ProviderSpec
from sync.billing.providers.standard_webhooks import StandardScheme
from sync.core import instants

NAME = "dodo"

STATUSES = {"pending": "incomplete", "on_hold": "past_due", "cancelled": "canceled", "failed": EXPIRED}
STATUSES["expired"] = "canceled"


class DodoWebhooks(SignedWebhooks):
    """`{"type": ..., "timestamp": ..., "data": {"subscription_id": ..., "product_id": ..., "addons": [...]}}`."""

    name = NAME
    scheme = StandardScheme()
    id_field = ""
    sells_products = True

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        event = Event(
            NAME, environment, event_id, kind, Order.of(None, instants.parse(envelope["timestamp"]), event_id)
        )
        if not kind.startswith("subscription."):
            return replace(event, ignored=f"events of type {kind[:60]} say nothing of entitlements")
        data = envelope["data"]
        return parsing.with_subscription(event, subscription_of(data), parsing.names(data, "metadata"))


def subscription_of(data: Mapping[str, Any]) -> Subscription:
    """The neutral form."""
    items = [
        Item(data["product_id"], parsing.quantity(data["product_id"], data["quantity"])),
        *(Item(one["addon_id"], parsing.quantity(one["addon_id"], one["quantity"])) for one in data["addons"]),
    ]
    ends_ns = instants.parse(data["next_billing_date"])
    return Subscription(
        data["subscription_id"],
        STATUSES.get(data["status"], data["status"]),
        tuple(items),
        parsing.optional_id(data["customer"], "customer_id"),
        period=Period(instants.parse(data["previous_billing_date"]), ends_ns),
        scheduled=Scheduled("cancel", ends_ns) if data["cancel_at_next_billing_date"] else None,
        created_ns=instants.parse(data["created_at"]),
        products={item.price_id: item.price_id for item in items},
    )


class DodoSettings(ProviderSettings):
    env_prefix = "PLANWIRE_DODO_"


def make_client(environment: str, key: str, base_url: str, rate_limiter: RateLimiter) -> ProviderClient:
    raise AssertionError("the tests ask nothing")


def read_preview(document: Mapping[str, object], subscription_id: str, billing_mode: str) -> ProviderPreview:
    return ProviderPreview(document, None)


DODO = ProviderSpec(
    name=NAME,
    title="Dodo Payments",
    adapter=DodoWebhooks(),
    signature_header=DodoWebhooks.scheme.header,
    signature_format="v1,BASE64",
    settings=DodoSettings,
    make_client=make_client,
    billing_modes=("do_not_bill",),
    read_preview=read_preview,
)
