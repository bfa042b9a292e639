"""The JSON of the simulator's entities in Paddle's API and webhooks. Pure.

Source: the bodies in the official SDKs' fixtures and the entity classes of paddle-python-sdk. Paddle's details:
a scheduled cancel or pause leaves the status active but nulls every `next_billed_at`; a paused or canceled subscription
has no `current_billing_period`; a canceled one keeps its items; `management_urls` and the transaction previews exist in
the API only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sync.core.instants import text_us
from sync.simulator.paddle.adjustments import adjustment
from sync.simulator.paddle.prices import CYCLE, money, price as price, product as product
from sync.simulator.world import ids, offers
from sync.simulator.world.model import (
    WHOLE_BP,
    Adjustment,
    Bill,
    Discount,
    Event,
    Item,
    Json,
    Line,
    Period,
    ScheduledChange,
    Subscription,
    Transaction,
)
from sync.simulator.world.offers import CURRENCY, Charge

Body = dict[str, Json]


def envelope(event: Event, notification_id: str | None) -> Body:
    """Return the event as a webhook's body or, without a notification id, as an entry of list-events."""
    occurred_at = text_us(event.occurred_us)
    body: Body = {"event_id": event.id, "event_type": event.type, "occurred_at": occurred_at, "data": entity(event)}
    return body if notification_id is None else body | {"notification_id": notification_id}


def entity(event: Event) -> Body:
    """Return the event's `data`."""
    if isinstance(event.data, Transaction):
        return transaction(event.data)
    if isinstance(event.data, Adjustment):
        return adjustment(event.data)
    body = subscription(event.data)
    if event.transaction_id is not None:
        body["transaction_id"] = event.transaction_id
    return body


def subscription(sub: Subscription) -> Body:
    """Return a subscription as in webhooks."""
    runs = sub.status not in ("paused", "canceled")
    next_at = _at(sub.bills_us)
    return {
        "id": sub.id,
        "status": sub.status,
        "customer_id": sub.customer_id,
        "address_id": sub.address_id,
        "currency_code": CURRENCY,
        "created_at": text_us(sub.created_us),
        "updated_at": text_us(sub.updated_us),
        "started_at": text_us(sub.started_us),
        "first_billed_at": _at(sub.first_billed_us),
        "next_billed_at": next_at,
        "paused_at": _at(sub.paused_us),
        "canceled_at": _at(sub.canceled_us),
        "collection_mode": "automatic",
        "current_billing_period": _period(sub.period) if runs else None,
        "billing_cycle": CYCLE,
        "scheduled_change": _scheduled(sub.scheduled),
        "items": [_item(sub, item, next_at) for item in sub.items],
        "custom_data": sub.custom_data,
        "consent_requirements": [],
        "discount": _discount(sub.discount),
        **dict.fromkeys(("business_id", "billing_details", "import_meta")),
    }


def api_subscription(sub: Subscription, includes: Iterable[str] = ()) -> Body:
    """Return a subscription as in API answers. `includes`: `next_transaction`, `recurring_transaction_details`."""
    body = subscription(sub) | {
        "management_urls": {
            "update_payment_method": f"https://buyer-portal.invalid/subscriptions/{sub.id}/update-payment-method",
            "cancel": f"https://buyer-portal.invalid/subscriptions/{sub.id}/cancel",
        }
    }
    if "next_transaction" in includes:
        body["next_transaction"] = _next_transaction(sub)
    if "recurring_transaction_details" in includes:
        recurring = offers.monthly(sub.items).under(sub.terms(sub.period.starts_us))
        body["recurring_transaction_details"] = _details(recurring, sub.period)
    return body


def preview(before: Subscription, after: Subscription, charge: Charge | None) -> Body:
    """Return the changed subscription, without an id, and the change's cost; only a change of items has a cost."""
    body = api_subscription(after, ("next_transaction", "recurring_transaction_details"))
    del body["id"]
    body["immediate_transaction"] = None
    body["update_summary"] = None
    if charge is not None:
        if charge.at_once and charge.due > 0:
            body["immediate_transaction"] = _coming(charge.bill, before.period)
        body["update_summary"] = {
            "credit": money(charge.bill.credit),
            "charge": money(charge.bill.total),
            "result": {"action": "charge" if charge.due >= 0 else "credit", **money(abs(charge.due))},
        }
    return body


def transaction(paid: Transaction, adjustments: Iterable[Adjustment] | None = None) -> Body:
    """Return a completed transaction as in webhooks, or with the adjustments that an API request includes."""
    at = text_us(paid.at_us)
    return {
        "id": paid.id,
        "status": "completed",
        "customer_id": paid.customer_id,
        "address_id": paid.address_id,
        "custom_data": paid.custom_data,
        "currency_code": CURRENCY,
        "origin": paid.origin,
        "subscription_id": paid.subscription_id,
        "invoice_id": paid.invoice_id,
        "invoice_number": paid.invoice_number,
        "collection_mode": "automatic",
        "billing_period": None if paid.period is None else _period(paid.period),
        "items": [{"price": price(item.price), "quantity": item.quantity, "proration": None} for item in paid.items],
        "details": _details(paid.bill or offers.monthly(paid.items), paid.period, paid.id),
        "payments": [_payment(paid, at)] if paid.amount else [],
        "checkout": {"url": None},
        **dict.fromkeys(("created_at", "updated_at", "billed_at"), at),
        **dict.fromkeys(("business_id", "discount_id", "billing_details", "revised_at")),
        **({} if adjustments is None else {"adjustments": [adjustment(each) for each in adjustments]}),
    }


def _at(at_us: int | None) -> str | None:
    return None if at_us is None else text_us(at_us)


def _period(period: Period) -> Body:
    return {"starts_at": text_us(period.starts_us), "ends_at": text_us(period.ends_us)}


def _discount(of: Discount | None) -> Body | None:
    if of is None:
        return None
    return {"id": of.id, "starts_at": text_us(of.starts_us), "ends_at": _at(of.ends_us)}


def _scheduled(change: ScheduledChange | None) -> Body | None:
    if change is None:
        return None
    effective_at, resume_at = text_us(change.effective_us), _at(change.resume_us)
    return {"action": change.action, "effective_at": effective_at, "resume_at": resume_at}


def _item(sub: Subscription, item: Item, next_at: str | None) -> Body:
    return {
        "status": "trialing" if sub.status == "trialing" else "inactive" if sub.status == "paused" else "active",
        "quantity": item.quantity,
        "recurring": True,
        "created_at": text_us(item.created_us),
        "updated_at": text_us(item.updated_us),
        "previously_billed_at": _at(item.billed_us),
        "next_billed_at": next_at,
        "trial_dates": None if sub.trial is None else _period(sub.trial),
        "price": price(item.price),
        "product": product(item.price),
    }


def _totals(lines: Iterable[Line]) -> Body:
    """Return the totals of a bill's lines."""
    sums = [0, 0, 0, 0]
    for line in lines:
        sums = [sum(each) for each in zip(sums, (line.amount, line.discount, line.tax, line.total), strict=True)]
    return dict(zip(("subtotal", "discount", "tax", "total"), map(str, sums), strict=True))


def _details(bill: Bill, period: Period | None, transaction_id: str | None = None) -> Body:
    """Return the details of a bill. Its lines have ids only if the transaction exists."""
    lines: list[Json] = []
    for number, of in enumerate(bill.lines):
        line: Body = {
            "price_id": of.price.id,
            "quantity": of.quantity,
            "proration": None if of.rate is None or period is None else _proration(of.rate, period),
            "tax_rate": _rate(of.tax_bp),
            "unit_totals": _totals((replace(of, amount=of.amount // of.quantity),)),
            "totals": _totals((of,)),
            "product": product(of.price),
        }
        if transaction_id is not None:
            line["id"] = ids.derived("txnitm", f"{transaction_id}{of.price.id}{number or ''}")
        lines.append(line)
    credit: Body = {"credit": str(min(bill.credit, bill.total)), "credit_to_balance": str(bill.to_balance)}
    nothing: Body = dict.fromkeys(("balance", "grand_total_tax"), "0")
    unknown: Body = {"fee": None, "earnings": None}
    grand: Body = {"grand_total": str(bill.due), "currency_code": CURRENCY}
    return {
        "tax_rates_used": [
            {"tax_rate": _rate(rate), "totals": _totals(line for line in bill.lines if line.tax_bp == rate)}
            for rate in dict.fromkeys(line.tax_bp for line in bill.lines)
        ],
        "totals": _totals(bill.lines) | credit | nothing | unknown | grand,
        "line_items": lines,
        **dict.fromkeys(("adjusted_totals", "payout_totals", "adjusted_payout_totals")),
    }


def _rate(tax_bp: int) -> str:
    """Return a tax rate as Paddle writes it: 0.19."""
    return f"{tax_bp / WHOLE_BP:g}"


def _proration(rate: str, period: Period) -> Body:
    return {"rate": rate, "billing_period": _period(period)}


def _coming(bill: Bill, period: Period) -> Body:
    return {"billing_period": _period(period), "details": _details(bill, period), "adjustments": []}


def _next_transaction(sub: Subscription) -> Body | None:
    if sub.bills_us is None:
        return None
    return _coming(offers.renewal(sub, sub.bills_us), Period.month(sub.bills_us))


def _payment(paid: Transaction, at: str) -> Body:
    return {
        "payment_attempt_id": ids.derived("attempt", paid.id),
        "payment_method_id": ids.derived("paymtd", paid.customer_id),
        "stored_payment_method_id": ids.derived("stored", paid.customer_id),
        "amount": str(paid.amount),
        "status": "captured",
        "error_code": None,
        "method_details": {
            "type": "card",
            "card": {"type": "visa", "last4": "4242", "expiry_month": 12, "expiry_year": 2039, "cardholder_name": None},
            "underlying_details": None,
            "south_korea_local_card": None,
        },
        "created_at": at,
        "captured_at": at,
    }
