"""Polar's one-time purchases and refunds: what an order without a subscription sells, and what goes back of it. Pure.

An order shows the sum of its refunds, net and tax. A refund's own events say more only where it fails: the order is not
shown as refunded again then. Source: https://polar.sh/docs/api-reference/orders/get
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sync.billing.domain.facts.model import Event, Item, Purchase, Refund, Subscription
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.providers import parsing
from sync.billing.providers.parsing import is_id
from sync.billing.providers.polar.subscription import modified_ns, quantity_of
from sync.core import instants

REFUNDED = "order.refunded"

REFUND_UPDATED = "refund.updated"

_FAILED = ("failed", "canceled")
"""The statuses of refunds that do not arrive."""

_PAID = ("paid", "partially_refunded", "refunded")
"""The statuses of orders that were paid, whatever went back since."""


def purchase_of(data: Mapping[str, Any]) -> Subscription | None:
    """Return the one-time purchase in an order; None if it is not paid, or a subscription's.

    Raises:
        ValueError: a field has another form; the message names it.
    """
    product_id, order_id = data.get("product_id"), parsing.optional_id(data, "id")
    if data.get("subscription_id") is not None or data.get("status") not in _PAID:
        return None
    if order_id is None or not is_id(product_id):
        return None
    bought_ns = instants.parse(data.get("created_at"))
    item = Item(_price_id(data) or product_id, parsing.quantity(product_id, quantity_of(data)))
    return Subscription(
        order_id,
        "active",
        (item,),
        parsing.optional_id(data, "customer_id"),
        created_ns=bought_ns,
        products={item.price_id: product_id},
        purchase=Purchase(bought_ns, parsing.amount(data.get("total_amount")), _currency(data)),
    )


def refund_event(event: Event, data: Mapping[str, Any]) -> Event:
    """Return the event about the refunds of an order, the newest of which shows their sum.

    Raises:
        ValueError: an id or an instant is missing or malformed; the message names it.
    """
    order_id, subscription_id = parsing.optional_id(data, "id"), parsing.optional_id(data, "subscription_id")
    if order_id is None:
        raise ValueError("data.id is missing")
    parts = [parsing.amount(data.get(name)) for name in ("refunded_amount", "refunded_tax_amount")]
    amount = None if parts[0] is None else sum(part or 0 for part in parts)
    changed_ns = modified_ns(data) or event.order.occurred_ns
    refund = Refund(
        (changed_ns, amount or 0, event.event_id),
        order_id,
        RefundKind.REFUND,
        RefundStatus.APPROVED,
        changed_ns,
        amount,
        _currency(data),
        is_full=data.get("status") == "refunded",
        is_of_subscription=subscription_id is not None,
    )
    customer_id = parsing.optional_id(data, "customer_id")
    return replace(event, subscription_id=subscription_id or order_id, customer_id=customer_id, refund=refund)


def failed_refund_event(event: Event, data: Mapping[str, Any]) -> Event:
    """Return the event about a refund; if it has failed, its order is not refunded as a whole.

    Raises:
        ValueError: an id or an instant is malformed; the message names it.
    """
    order_id, subscription_id = parsing.optional_id(data, "order_id"), parsing.optional_id(data, "subscription_id")
    if order_id is None or data.get("status") not in _FAILED:
        return replace(event, ignored="a refund is a hint: its order's own event shows what went back")
    changed_ns = modified_ns(data) or event.order.occurred_ns
    amount = sum(parsing.amount(data.get(name)) or 0 for name in ("amount", "tax_amount"))
    refund = Refund(
        (changed_ns, amount, event.event_id),
        order_id,
        RefundKind.REFUND,
        RefundStatus.PENDING,
        changed_ns,
        amount,
        _currency(data),
        is_of_subscription=subscription_id is not None,
    )
    customer_id = parsing.optional_id(data, "customer_id")
    return replace(event, subscription_id=subscription_id or order_id, customer_id=customer_id, refund=refund)


def _price_id(data: Mapping[str, Any]) -> str | None:
    """Return the id of the price of the order's first item that has one; None if none has."""
    listed = data.get("items")
    prices = (
        [line.get("product_price_id") for line in listed if isinstance(line, dict)] if isinstance(listed, list) else []
    )
    return next((price for price in prices if is_id(price)), None)


def _currency(data: Mapping[str, Any]) -> str:
    return str(data.get("currency") or "").upper()
