"""Paddle's one-time purchases and adjustments: what a transaction without a subscription sells, what goes back. Pure.

Source: https://developer.paddle.com/build/transactions/create-transaction-adjustments
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sync.billing.domain.facts.model import Event, Purchase, Refund, Subscription
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.providers import parsing
from sync.billing.providers.parsing import ITEMS_MAX
from sync.core import instants

PAID = ("transaction.paid", "transaction.completed")
"""The events of a checkout: Paddle sends the first before `subscription.created`, the second after it."""

ADJUSTED = ("adjustment.created", "adjustment.updated")

_KINDS = {
    "refund": RefundKind.REFUND,
    "chargeback": RefundKind.CHARGEBACK,
    "chargeback_reverse": RefundKind.REVERSAL,
}
"""An adjustment's action -> its kind. Credits change what is due, and warnings announce: nothing goes back by them."""

_STATUSES = {"approved": RefundStatus.APPROVED, "reversed": RefundStatus.REVERSED}


def purchase_of(data: Mapping[str, Any], kind: str, occurred_ns: int) -> Subscription | None:
    """Return the one-time purchase in a paid transaction; None if it has none, or pays for a subscription.

    Before a subscription is made, its transaction has no id of it: then recurring prices tell.

    Args:
        kind: the event's type, one of PAID.
        occurred_ns: the event's time.

    Raises:
        ValueError: a field has another form; the message names it.
    """
    entries = data.get("items")
    if data.get("subscription_id") is not None or not isinstance(entries, list) or not 0 < len(entries) <= ITEMS_MAX:
        return None
    single = [entry for entry in entries if _is_single(entry, is_sure=kind == "transaction.completed")]
    purchase_id = parsing.optional_id(data, "id")
    if purchase_id is None or len(single) < len(entries):
        return None
    billed_at = data.get("billed_at") or data.get("created_at")
    bought_ns = occurred_ns if billed_at is None else instants.parse(billed_at)
    return Subscription(
        purchase_id,
        "active",
        tuple([parsing.item(entry) for entry in single]),
        parsing.optional_id(data, "customer_id"),
        created_ns=bought_ns,
        products=parsing.products(single),
        purchase=Purchase(bought_ns, _total(data, single), str(data.get("currency_code") or "")),
    )


def refund_event(event: Event, data: Mapping[str, Any]) -> Event:
    """Return the event about an adjustment; ignored if no money goes back by it.

    Raises:
        ValueError: an id or an instant is missing or malformed; the message names it.
    """
    kind, adjustment_id = _KINDS.get(str(data.get("action"))), parsing.optional_id(data, "id")
    transaction_id = parsing.optional_id(data, "transaction_id")
    if kind is None:
        return replace(event, ignored=f"an adjustment of the kind {str(data.get('action'))[:40]} takes nothing back")
    if adjustment_id is None or transaction_id is None:
        raise ValueError("data.id or data.transaction_id is missing")
    subscription_id = parsing.optional_id(data, "subscription_id")
    totals, items = data.get("totals"), data.get("items")
    amount = parsing.amount(totals.get("total")) if isinstance(totals, dict) else None
    made_ns, changed_ns = (instants.parse(data.get(name)) if data.get(name) else None for name in _TIMES)
    refund = Refund(
        (changed_ns or event.order.occurred_ns, event.order.occurred_ns, event.event_id),
        adjustment_id,
        kind,
        _STATUSES.get(str(data.get("status")), RefundStatus.PENDING),
        made_ns or event.order.occurred_ns,
        None if amount is None else abs(amount),
        str(data.get("currency_code") or ""),
        is_full=_is_full(data.get("type"), items, is_alone=amount is None or subscription_id is not None),
        is_of_subscription=subscription_id is not None,
    )
    return replace(event, subscription_id=subscription_id or transaction_id, refund=refund)


_TIMES = ("created_at", "updated_at")


def _is_single(entry: object, *, is_sure: bool) -> bool:
    """Return whether an item's price is not recurring. `is_sure`: a price that does not say so is not."""
    price = entry.get("price") if isinstance(entry, dict) else None
    if not isinstance(price, dict):
        return is_sure
    return price.get("billing_cycle") is None and (is_sure or "billing_cycle" in price)


def _is_full(kind: object, items: object, *, is_alone: bool) -> bool:
    """Return whether an adjustment is of the whole transaction.

    Args:
        kind: its type; older bodies have none.
        items: its items, of which each may be adjusted in full.
        is_alone: whether nothing but the items can tell.
    """
    if kind in ("full", "partial"):
        return kind == "full"
    if not is_alone or not isinstance(items, list) or not items:
        return False
    return all(isinstance(one, dict) and one.get("type") == "full" for one in items)


def _total(data: Mapping[str, Any], entries: list[Any]) -> int | None:
    """Return what was paid: the transaction's total, or the sum of its items where it is not shown."""
    details = data.get("details")
    totals = details.get("totals") if isinstance(details, dict) else None
    if isinstance(totals, dict):
        return next((found for name in ("grand_total", "total") if (found := parsing.amount(totals.get(name)))), None)
    amounts = list(_amounts(entries))
    return None if None in amounts else sum(amount for amount in amounts if amount is not None)


def _amounts(entries: list[Any]) -> Iterator[int | None]:
    for entry in entries:
        each = entry["price"].get("unit_price")
        amount = parsing.amount(each.get("amount")) if isinstance(each, dict) else None
        yield None if amount is None else amount * parsing.item(entry).quantity
