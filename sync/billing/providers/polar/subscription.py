"""Polar's subscription, as its webhooks, its customer's state and its API show it, in the provider-neutral form. Pure.

A subscription buys one product, in the number of its seats or units. Its prices are those of the product: one that
recurs, and others for metered use, which buy nothing here. Source: https://polar.sh/docs/api-reference/subscriptions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sync.billing.domain.facts.model import EXPIRED, Item, NamePlace, Period, Scheduled, Subscription
from sync.billing.providers import parsing
from sync.billing.providers.parsing import is_id
from sync.core import instants

METADATA = "metadata"

EXTERNAL_ID = "customer.external_id"
"""The place of a customer's id in the seller's own system."""

METERED = "metered_unit"
"""The `amount_type` of a price for metered use."""

PRORATIONS = {"prorated_immediately": "invoice", "prorated_next_billing_period": "prorate"}
"""Billing mode -> Polar's `proration_behavior`. With its others the change itself waits, or resets the period."""

ENDED = ("canceled", "incomplete_expired", "unpaid")
"""The statuses in which nothing is scheduled any more."""


def subscription_of(data: Mapping[str, Any]) -> Subscription:
    """Return Polar's subscription in the provider-neutral form.

    Raises:
        ValueError: a required field is missing or has another form; the message names it.
    """
    subscription_id, status = parsing.optional_id(data, "id"), data.get("status")
    if subscription_id is None:
        raise ValueError("data.id is missing")
    if not isinstance(status, str) or not status:
        raise ValueError("data.status is missing")
    product_id = data.get("product_id")
    if not is_id(product_id):
        raise ValueError("data.product_id is missing or not an id")
    item = Item(_price_id(data) or product_id, parsing.quantity(product_id, quantity_of(data)))
    return Subscription(
        id=subscription_id,
        status=EXPIRED if status == "incomplete_expired" else status,
        items=(item,),
        customer_id=parsing.optional_id(data, "customer_id"),
        period=_period(data),
        trial_ends_ns=instant(data, "trial_end") if status == "trialing" else None,
        scheduled=_scheduled(data, status),
        created_ns=parsing.created_ns(data, "created_at", instants.parse),
        products={item.price_id: product_id},
    )


def quantity_of(data: Mapping[str, Any]) -> object:
    """Return the number of seats or units; None for a product that has neither."""
    return data.get("units") if data.get("seats") is None else data["seats"]


def has_quantity(data: Mapping[str, Any]) -> bool:
    """Return whether the subscription says how much of the product it buys. Older states of customers do not."""
    return "seats" in data or "units" in data


def modified_ns(data: Mapping[str, Any]) -> int | None:
    """Return when the subscription was modified last; None if it does not say so.

    Raises:
        ValueError: it says so in another form.
    """
    # Null until the first modification.
    modified = instant(data, "modified_at")
    return instant(data, "created_at") if modified is None else modified


def instant(data: Mapping[str, Any], name: str) -> int | None:
    """Return the instant in the field `name`; None if it is absent or null.

    Raises:
        ValueError: the field holds something else.
    """
    value = data.get(name)
    return None if value is None else instants.parse(value)


def names(data: Mapping[str, Any]) -> tuple[NamePlace, ...]:
    """Return the places in a subscription or an order that may name its tenant: its metadata, then its customer's."""
    customer = data.get("customer")
    own, *rest = parsing.names(data, METADATA)
    return (own, *rest, _external_id(customer)) if isinstance(customer, dict) else (own, *rest)


def customer_names(customer: Mapping[str, Any]) -> tuple[NamePlace, ...]:
    """Return the places in a customer that may name its tenant: its metadata, then its id in the seller's system."""
    return (*parsing.customer_names(customer, METADATA), _external_id(customer))


def _external_id(customer: Mapping[str, Any]) -> NamePlace:
    return NamePlace(EXTERNAL_ID, customer.get("external_id"))


def _price_id(data: Mapping[str, Any]) -> str | None:
    """Return the id of the price that recurs; None if the subscription shows no prices."""
    prices = data.get("prices")
    shown = [price for price in prices if isinstance(price, dict)] if isinstance(prices, list) else []
    recurring = [price for price in shown if price.get("amount_type") != METERED]
    found = next((price.get("id") for price in recurring or shown), data.get("price_id"))
    return found if is_id(found) else None


def _period(data: Mapping[str, Any]) -> Period | None:
    starts_ns, ends_ns = instant(data, "current_period_start"), instant(data, "current_period_end")
    return None if starts_ns is None or ends_ns is None else Period(starts_ns, ends_ns)


def _scheduled(data: Mapping[str, Any], status: str) -> Scheduled | None:
    """Return the next change that Polar makes by itself: the cancellation, or the begin or end of a pause."""
    if status in ENDED:
        return None
    found: list[Scheduled] = []
    period_ends_ns, resumes_ns = instant(data, "current_period_end"), instant(data, "resumes_at")
    if data.get("cancel_at_period_end"):
        ends_ns = instant(data, "ends_at") or period_ends_ns
        found += [] if ends_ns is None else [Scheduled("cancel", ends_ns)]
    if status == "paused":
        found += [] if resumes_ns is None else [Scheduled("resume", resumes_ns)]
    elif data.get("pause_at_period_end") and period_ends_ns is not None:
        found.append(Scheduled("pause", period_ends_ns, resumes_ns))
    return min(found, key=lambda change: change.effective_ns, default=None)
