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
from sync.billing.providers.base import PaidFor
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

REFUND_CHANGED = "refund.updated"
REFUND_STEPS = ("refund.created", REFUND_CHANGED, "refund.failed", "charge.refund.updated")
"""Events of one refund. Some refunds fail days after `charge.refunded`."""

PAYMENT_EVENTS = (
    CHECKED_OUT,
    PAID_LATER,
    INVOICED,
    REFUNDED,
    REFUND_CHANGED,
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.closed",
)
"""The types that catch-up reads. The others of DISPUTED and REFUND_STEPS come with these."""

_SETTLED = ("paid", "no_payment_required")
_WON, _LOST = "won", "lost"
_NOT_YET = ("warning_needs_response", "warning_under_review", "warning_closed", "prevented")
"""The statuses of disputes by which no money has gone back."""

_REFUND_STATUSES = {
    "succeeded": RefundStatus.APPROVED,
    "failed": RefundStatus.REVERSED,
    "canceled": RefundStatus.REVERSED,
}
"""The statuses of refunds; in others nothing is decided."""


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

    Newer API versions show its payment only on request: then it has the invoice's id.

    Raises:
        ValueError: an id or a quantity is malformed; the message names it.
    """
    parent, listed = invoice.get("parent"), invoice.get("lines")
    entries = _priced(listed.get("data") if isinstance(listed, dict) else None)
    is_subscriptions = bool(
        invoice.get("subscription") or (isinstance(parent, dict) and parent.get("subscription_details"))
    )
    invoice_id = parsing.optional_id(invoice, "id")
    purchase_id = parsing.optional_id(invoice, "payment_intent") or _payment_of(invoice) or invoice_id
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
        purchase=Purchase(
            bought_ns,
            parsing.amount(invoice.get("amount_paid")),
            _currency(invoice),
            (invoice_id or "") if purchase_id != invoice_id else "",
        ),
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


def _payment_of(invoice: Mapping[str, Any]) -> str | None:
    """Return the id of the only payment of an invoice that shows its payments."""
    listed = invoice.get("payments")
    payments = listed.get("data") if isinstance(listed, dict) else None
    found = [
        id
        for each in payments or []
        if isinstance(each, dict) and isinstance(payment := each.get("payment"), dict)
        if each.get("status") in (None, "paid")
        if (id := parsing.optional_id(payment, "payment_intent") or parsing.optional_id(payment, "charge")) is not None
    ]
    return found[0] if len(found) == 1 else None


def refund_event(event: Event, charge: Mapping[str, Any]) -> Event:
    """Return the event about a refunded charge. It shows the sum of all refunds of the charge, which only grows.

    Raises:
        ValueError: the charge has no id.
    """
    charge_id = parsing.optional_id(charge, "id")
    if charge_id is None:
        raise ValueError("the charge has no id")
    amount = parsing.amount(charge.get("amount_refunded"))
    refund = Refund(
        (event.order.occurred_ns, amount or 0, event.event_id),
        charge_id,
        RefundKind.REFUND,
        RefundStatus.APPROVED,
        event.order.occurred_ns,
        amount,
        _currency(charge),
        is_full=charge.get("refunded") is True,
        is_of_subscription=_is_recurring(charge),
    )
    return _about_payment(event, charge, refund, charge_id)


def single_refund_event(event: Event, body: Mapping[str, Any]) -> Event:
    """Return the event about one refund, which is a part of the sum that its charge shows.

    Raises:
        ValueError: the refund has no id, or a malformed instant.
    """
    refund_id, charge_id = parsing.optional_id(body, "id"), parsing.optional_id(body, "charge")
    payment_id, shown, made = parsing.optional_id(body, "payment_intent"), body.get("charge"), body.get("created")
    if refund_id is None or (payment_id is None and charge_id is None):
        raise ValueError("the refund has no id, or no payment")
    charge = shown if isinstance(shown, dict) else {}
    amount, paid = parsing.amount(body.get("amount")), parsing.amount(charge.get("amount"))
    status = _REFUND_STATUSES.get(str(body.get("status")), RefundStatus.PENDING)
    refund = Refund(
        # Within one second, the end of a refund is the newest.
        (event.order.occurred_ns, list(RefundStatus).index(status), event.event_id),
        refund_id,
        RefundKind.REFUND,
        status,
        event.order.occurred_ns if made is None else instant(made, "created"),
        amount,
        _currency(body),
        is_full=amount is not None and paid is not None and amount >= paid,
        is_of_subscription=_is_recurring(charge),
        part_of=charge_id or str(payment_id),
    )
    return _about_payment(event, {**charge, "payment_intent": payment_id}, refund, str(charge_id))


def paid_for(payments: Any) -> PaidFor | None:
    """Return what the invoice in a list of invoice payments was for; None if the list is empty."""
    for each in payments if isinstance(payments, list) else []:
        invoice = each.get("invoice") if isinstance(each, dict) else None
        if not isinstance(invoice, dict):
            continue
        parent = invoice.get("parent")
        details = parent.get("subscription_details") if isinstance(parent, dict) else None
        subscription_id = parsing.optional_id(details if isinstance(details, dict) else invoice, "subscription")
        invoice_id, total = parsing.optional_id(invoice, "id"), parsing.amount(invoice.get("amount_paid"))
        if subscription_id is not None:
            return PaidFor(subscription_id, is_subscription=True, total=total)
        if invoice_id is not None:
            return PaidFor(invoice_id, total=total)
    return None


def _is_recurring(charge: Mapping[str, Any]) -> bool:
    """Return whether a charge is a subscription's, as far as it shows that.

    Newer API versions show no invoice; the description is Stripe's own, unless it is changed.
    """
    return bool(charge.get("invoice")) or str(charge.get("description")).startswith("Subscription ")


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
