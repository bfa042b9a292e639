"""Stripe's one-time purchases, refunds and disputes: what a paid checkout session sells, and what goes back. Pure.

A purchase has the id of its payment (`payment_intent`), which refunds and disputes name; a free one has its session's.
Webhooks show a session without its items: then it has to be fetched (`Event.unlisted`).
Source: https://docs.stripe.com/api/checkout/sessions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sync.billing.domain.facts.model import Event, NamePlace, Purchase, Refund, Subscription
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.providers import parsing
from sync.billing.providers.parsing import ITEMS_MAX
from sync.billing.providers.stripe.subscription import instant

CHECKED_OUT = "checkout.session.completed"
PAID_LATER = "checkout.session.async_payment_succeeded"
"""Of payment methods that take days, such as bank debits: the session is completed before it is paid."""

INVOICED = "invoice.paid"
REFUNDED = "charge.refunded"
DISPUTED = tuple(
    f"charge.dispute.{what}" for what in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
)

PAYMENT_EVENTS = (CHECKED_OUT, PAID_LATER, INVOICED, REFUNDED, "charge.dispute.created", "charge.dispute.closed")
"""The types that catch-up reads. The others of DISPUTED come with these."""

_SETTLED = ("paid", "no_payment_required")
_WON, _LOST = "won", "lost"
_NOT_YET = ("warning_needs_response", "warning_under_review", "warning_closed", "prevented")
"""The statuses of disputes by which no money has gone back."""


def is_purchase(session: Mapping[str, Any]) -> bool:
    """Return whether a checkout session sells no subscription, and is paid."""
    return session.get("mode") == "payment" and session.get("payment_status") in _SETTLED


def purchase_event(event: Event, session: Mapping[str, Any], names: tuple[NamePlace, ...]) -> Event:
    """Return the event about a paid session in payment mode: with the purchase, or to be fetched for its items.

    Raises:
        ValueError: an id, an instant or an item is malformed; the message names it.
    """
    session_id = parsing.optional_id(session, "id")
    purchase_id = parsing.optional_id(session, "payment_intent") or session_id
    if session_id is None or purchase_id is None:
        raise ValueError("the checkout session has no id")
    customer_id, listed = parsing.optional_id(session, "customer"), session.get("line_items")
    entries = listed.get("data") if isinstance(listed, dict) else None
    event = replace(event, names=names, customer_id=customer_id, subscription_id=purchase_id)
    if not isinstance(listed, dict) or not isinstance(entries, list) or listed.get("has_more"):
        return replace(event, unlisted=session_id)
    if len(entries) > ITEMS_MAX:
        raise ValueError(f"line_items.data is not a list of at most {ITEMS_MAX}")
    bought_ns = instant(session["created"], "created") if "created" in session else event.order.occurred_ns
    body = Subscription(
        purchase_id,
        "active",
        tuple([parsing.item(entry, price_is_id=True) for entry in entries]),
        customer_id,
        created_ns=bought_ns,
        products=parsing.products(entries),
        lookup_keys=parsing.lookup_keys(entries),
        purchase=Purchase(
            bought_ns,
            parsing.amount(session.get("amount_total")),
            _currency(session),
            parsing.optional_id(session, "invoice") or "",
        ),
    )
    return replace(event, subscription=body)


def invoice_event(event: Event, invoice: Mapping[str, Any], names: tuple[NamePlace, ...]) -> Event:
    """Return the event about a paid invoice: a purchase, unless it is a subscription's, or sells no price.

    Newer API versions do not show its payment: then it has the invoice's id, and refunds cannot find it.

    Raises:
        ValueError: an id or a quantity is malformed; the message names it.
    """
    parent, listed = invoice.get("parent"), invoice.get("lines")
    entries = _priced(listed.get("data") if isinstance(listed, dict) else None)
    is_subscriptions = bool(
        invoice.get("subscription") or (isinstance(parent, dict) and parent.get("subscription_details"))
    )
    purchase_id = parsing.optional_id(invoice, "payment_intent") or parsing.optional_id(invoice, "id")
    if is_subscriptions or not entries or purchase_id is None:
        return replace(event, ignored=f"events of type {event.type[:60]} say nothing of entitlements")
    customer_id, bought_ns = parsing.optional_id(invoice, "customer"), event.order.occurred_ns
    body = Subscription(
        purchase_id,
        "active",
        tuple([parsing.item(entry) for entry in entries]),
        customer_id,
        created_ns=bought_ns,
        products=parsing.products(entries),
        lookup_keys=parsing.lookup_keys(entries),
        purchase=Purchase(bought_ns, parsing.amount(invoice.get("amount_paid")), _currency(invoice)),
    )
    return replace(event, names=names, customer_id=customer_id, subscription_id=purchase_id, subscription=body)


def _priced(lines: object) -> list[dict[str, Any]]:
    """Return an invoice's lines with a price, in the form of a session's: `price` is an object."""
    found: list[dict[str, Any]] = []
    for line in lines if isinstance(lines, list) else []:
        price, pricing = (line.get("price"), line.get("pricing")) if isinstance(line, dict) else (None, None)
        details = pricing.get("price_details") if isinstance(pricing, dict) else None
        if not isinstance(price, dict) and isinstance(details, dict):
            price = {"id": details.get("price"), "product": details.get("product")}
        if isinstance(price, dict) and parsing.is_id(price.get("id")):
            found.append({"price": price, "quantity": line.get("quantity")})
    return found[:ITEMS_MAX]


def refund_event(event: Event, charge: Mapping[str, Any]) -> Event:
    """Return the event about a refunded charge. It shows the sum of all refunds of the charge, which only grows.

    Raises:
        ValueError: the charge has no id.
    """
    charge_id = parsing.optional_id(charge, "id")
    if charge_id is None:
        raise ValueError("the charge has no id")
    amount = parsing.amount(charge.get("amount_refunded"))
    # Newer API versions show no invoice; the description is Stripe's own, unless it is changed.
    is_recurring = bool(charge.get("invoice")) or str(charge.get("description")).startswith("Subscription ")
    refund = Refund(
        (event.order.occurred_ns, amount or 0, event.event_id),
        charge_id,
        RefundKind.REFUND,
        RefundStatus.APPROVED,
        event.order.occurred_ns,
        amount,
        _currency(charge),
        is_full=charge.get("refunded") is True,
        is_of_subscription=is_recurring,
    )
    return _about_payment(event, charge, refund, charge_id)


def dispute_event(event: Event, dispute: Mapping[str, Any]) -> Event:
    """Return the event about a dispute: the money is gone from its beginning until it is won.

    Raises:
        ValueError: the dispute or its charge has no id.
    """
    dispute_id, charge_id = parsing.optional_id(dispute, "id"), parsing.optional_id(dispute, "charge")
    if dispute_id is None or charge_id is None:
        raise ValueError("the dispute has no id, or no charge")
    status, made = str(dispute.get("status")), dispute.get("created")
    state = RefundStatus.PENDING if status in _NOT_YET else RefundStatus.APPROVED
    refund = Refund(
        # Within one second, the end of a dispute is the newest.
        (event.order.occurred_ns, int(status in (_WON, _LOST, "warning_closed")), event.event_id),
        dispute_id,
        RefundKind.CHARGEBACK,
        RefundStatus.REVERSED if status == _WON else state,
        event.order.occurred_ns if made is None else instant(made, "created"),
        parsing.amount(dispute.get("amount")),
        _currency(dispute),
    )
    return _about_payment(event, dispute, refund, charge_id)


def _about_payment(event: Event, body: Mapping[str, Any], refund: Refund, charge_id: str) -> Event:
    payment_id = parsing.optional_id(body, "payment_intent") or charge_id
    customer_id = parsing.optional_id(body, "customer")
    return replace(event, subscription_id=payment_id, customer_id=customer_id, refund=refund)


def _currency(body: Mapping[str, Any]) -> str:
    return str(body.get("currency") or "").upper()
