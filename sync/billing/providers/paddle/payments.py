"""Paddle's one-time purchases and adjustments: what a transaction sells beside a subscription, what goes back. Pure.

A transaction of a subscription can have one-time items too: a set-up with the first payment, a charge in between. They
are a purchase of their own, and its event a part of the transaction's (`split_purchase`).
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

PART = "one_time_part"
"""The member of an envelope that marks the part about one-time items."""

_KINDS = {
    "refund": RefundKind.REFUND,
    "chargeback": RefundKind.CHARGEBACK,
    "chargeback_reverse": RefundKind.REVERSAL,
}
"""An adjustment's action -> its kind. Credits change what is due, and warnings announce: nothing goes back by them."""

_STATUSES = {"approved": RefundStatus.APPROVED, "reversed": RefundStatus.REVERSED}


def split_purchase(envelope: dict[str, Any], event_id: str) -> dict[str, Any] | None:
    """Return the part of a paid transaction's event that is about one-time items beside a subscription's.

    None if there are none, or nothing else: then the event itself is about them.
    """
    data = envelope.get("data")
    entries = data.get("items") if isinstance(data, dict) else None
    if envelope.get("event_type") not in PAID or not isinstance(data, dict) or not isinstance(entries, list):
        return None
    single = [entry for entry in entries if _is_single(entry, is_sure=False)]
    if not single or (data.get("subscription_id") is None and len(single) == len(entries)):
        return None
    if len(single) < len(entries):
        # What of the whole amount was paid for them is not told apart by refunds.
        data = {**data, "details": None}
    return {**envelope, "event_id": f"{event_id}.items"[:200], "data": {**data, "items": single}, PART: True}


def purchase_of(envelope: Mapping[str, Any], kind: str, occurred_ns: int) -> Subscription | None:
    """Return the one-time purchase in the event of a paid transaction; None if that pays for a subscription alone.

    Before a subscription is made, its transaction has no id of it: then recurring prices tell.

    Args:
        kind: the event's type, one of PAID.
        occurred_ns: the event's time.

    Raises:
        ValueError: a field has another form; the message names it.
    """
    data, is_part = envelope["data"], envelope.get(PART) is True
    entries, subscription_id = data.get("items"), parsing.optional_id(data, "subscription_id")
    if (subscription_id is not None and not is_part) or not isinstance(entries, list):
        return None
    single = [entry for entry in entries if _is_single(entry, is_sure=kind == "transaction.completed")]
    purchase_id = parsing.optional_id(data, "id")
    if purchase_id is None or not 0 < len(entries) <= ITEMS_MAX or len(single) < len(entries):
        return None
    billed_at = data.get("billed_at") or data.get("created_at")
    bought_ns = occurred_ns if billed_at is None else instants.parse(billed_at)
    total = None if is_part and data.get("details") is None else _total(data, single)
    return Subscription(
        purchase_id,
        "active",
        tuple([parsing.item(entry) for entry in single]),
        parsing.optional_id(data, "customer_id"),
        created_ns=bought_ns,
        products=parsing.products(single),
        purchase=Purchase(
            bought_ns, total, str(data.get("currency_code") or ""), subscription_id=subscription_id or ""
        ),
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
        payment_id=transaction_id if subscription_id is not None else "",
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


def transaction_envelope(data: Mapping[str, Any], event_id: str) -> dict[str, Any]:
    """Return a transaction of the API as the event of its newest change."""
    occurred_at = data.get("updated_at") or data.get("created_at")
    return {
        "event_id": event_id,
        "event_type": f"transaction.{data.get('status')}",
        "occurred_at": occurred_at,
        "data": data,
    }
