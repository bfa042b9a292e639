"""Stripe's amounts: what a previewed change costs, and what an invoice has billed. Pure.

A preview is one invoice: the one that the change makes at once, or the next one of the subscription. What kind it is
follows from its lines. Newer API versions show a line's price and proration in `pricing` and `parent`.
Source: https://docs.stripe.com/api/invoices/create_preview, https://docs.stripe.com/currencies
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sync.billing.domain.money.model import (
    CHANGE,
    LINE_AMOUNTS,
    LINES_MAX,
    NOTHING_BILLED,
    RENEWAL,
    Bill,
    Billed,
    Line,
    Money,
    amount,
    currency_of,
    exponent,
    total,
)
from sync.billing.providers.parsing import is_id
from sync.billing.providers.stripe.subscription import SECOND_NS

BILLED = ("invoice.finalized", "invoice.paid")

EXPONENTS = {"ISK": 2, "UGX": 2, "MGA": 0}
"""Currencies whose minor units Stripe counts otherwise than ISO 4217."""

_REASONS = {"subscription_update": CHANGE, "subscription_cycle": RENEWAL}

_AT_ONCE_S = 60
"""A period that begins at most so long after the preview begins with the change."""

Object = Mapping[str, Any]


def money_of(
    invoice: Object, *, bills_at_once: bool, at_s: int | None = None, renewal: Object | None = None
) -> Money | None:
    """Return what a previewed change costs; None if the invoice names no currency.

    Args:
        invoice: the previewed one.
        bills_at_once: whether the billing mode bills the change at once.
        at_s: the instant that it was previewed for; None if that is not known.
        renewal: the preview of the next invoice after the change, if `invoice` is not it.
    """
    currency = currency_of(invoice.get("currency"))
    if currency is None:
        return None
    entries = _entries(invoice)
    parts = [entry for entry in entries if _is_proration(entry)]
    at_s = max((start for entry in parts if (start := _start_s(entry))), default=None) if at_s is None else at_s
    quoted = Money(currency, exponent(currency, EXPONENTS), at_ns=None if at_s is None else at_s * SECOND_NS)
    if not isinstance((invoice.get("lines") or {}).get("data"), list):
        return quoted  # without lines it does not say which of the two it is
    made_at_once = _is_made_at_once(invoice, at_s)
    if bills_at_once if made_at_once is None else made_at_once:
        quoted = replace(quoted, now=_bill(invoice))
        return quoted if renewal is None else _with_next(quoted, renewal, _bill_after(renewal, invoice))
    if not bills_at_once or not parts:
        return _with_next(replace(quoted, now=NOTHING_BILLED), invoice)
    if renewal is None:
        return _with_next(quoted, invoice)
    # It is the next invoice with the change in it, and does not show what is left to pay of the change alone.
    lines = tuple([_line(entry) for entry in parts])
    sums = [total(getattr(line, name) for line in lines) for name in LINE_AMOUNTS]
    return _with_next(replace(quoted, now=Bill(lines, *sums)), renewal)


def billed_of(kind: str, invoice: Object) -> Billed | None:
    """Return what a change or a renewal has billed; None if the event is about neither."""
    reason = _REASONS.get(str(invoice.get("billing_reason"))) if kind in BILLED else None
    invoice_id, subscription_id = invoice.get("id"), _subscription_id(invoice)
    currency, at_s = currency_of(invoice.get("currency")), _seconds(invoice.get("created"))
    if reason is None or currency is None or at_s is None or not is_id(invoice_id) or not is_id(subscription_id):
        return None
    return Billed(invoice_id, subscription_id, reason, currency, at_s * SECOND_NS, _bill(invoice))


def _with_next(quoted: Money, renewal: Object, bill: Bill | None = None) -> Money:
    starts_s = _renews_s(renewal)
    next_s = _seconds(renewal.get("period_end")) if starts_s is None else starts_s
    next_ns = None if next_s is None else next_s * SECOND_NS
    return replace(quoted, next=_bill(renewal) if bill is None else bill, next_ns=next_ns)


def _bill_after(renewal: Object, invoice: Object) -> Bill:
    """Return the bill of a previewed renewal once `invoice` is billed.

    The preview does not know that invoice: it still has the parts of periods that wait for the next invoice, and the
    customer's balance as it is now.
    """
    bill, now = _bill(renewal), _bill(invoice)
    if bill.lines is None or now.lines is None:
        return bill._replace(credit=None, credit_to_balance=None, due=None)
    kept, billed = list(bill.lines), []
    for line in now.lines:
        if line.proration and line in kept:
            kept.remove(line)
            billed.append(line)
    sums = {name: _less(getattr(bill, name), [getattr(line, name) for line in billed]) for name in LINE_AMOUNTS}
    balance, whole = amount(invoice.get("starting_balance")), sums["total"]
    bill = bill._replace(lines=tuple(kept), **sums)
    if balance is None or whole is None or now.credit is None or now.credit_to_balance is None:
        return bill._replace(credit=None, credit_to_balance=None, due=None)
    left = max(-balance, 0) - now.credit + now.credit_to_balance
    return bill._replace(credit=min(left, max(whole, 0)), credit_to_balance=max(-whole, 0), due=max(whole - left, 0))


def _less(whole: int | None, parts: list[int | None]) -> int | None:
    taken = total(parts)
    return None if whole is None or taken is None else whole - taken


def _is_made_at_once(invoice: Object, at_s: int | None) -> bool | None:
    """Return whether an invoice is made by the change itself, and not at the next renewal; None if it does not say."""
    if invoice.get("billing_reason") == "subscription_update":
        return True
    starts_s, ends_s = _renews_s(invoice), _seconds(invoice.get("period_end"))
    if starts_s is None or (at_s is None and ends_s is None):
        return None
    return starts_s <= at_s + _AT_ONCE_S if at_s is not None else starts_s < (ends_s or 0)


def _renews_s(invoice: Object) -> int | None:
    """Return when the first whole period of an invoice begins; None if it has none."""
    starts = (_start_s(entry) for entry in _entries(invoice) if not _is_proration(entry))
    return min((start for start in starts if start is not None), default=None)


def _bill(invoice: Object) -> Bill:
    entries, listed = _entries(invoice), invoice.get("lines")
    is_whole = isinstance(listed, dict) and isinstance(listed.get("data"), list) and not listed.get("has_more")
    whole, balance = amount(invoice.get("total")), amount(invoice.get("starting_balance"))
    # A negative balance is the customer's credit, a positive one is what the customer still owes.
    credit = None if balance is None or whole is None else min(max(-balance, 0), max(whole, 0))
    return Bill(
        tuple([_line(entry) for entry in entries]) if is_whole and len(entries) <= LINES_MAX else None,
        amount(invoice.get("subtotal")),
        _sum(invoice.get("total_discount_amounts")),
        _tax(invoice, whole),
        whole,
        credit,
        None if whole is None else max(-whole, 0),
        amount(invoice.get("amount_due")),
    )


def _tax(invoice: Object, whole: int | None) -> int | None:
    untaxed = amount(invoice.get("total_excluding_tax"))
    if whole is not None and untaxed is not None:
        return whole - untaxed
    shown = [invoice[name] for name in ("total_taxes", "total_tax_amounts") if name in invoice]
    return _sum(shown[0]) if shown else amount(invoice.get("tax"))


def _line(entry: Object) -> Line:
    own = amount(entry.get("amount"))
    subtotal = amount(entry.get("subtotal", own))
    discount = _sum(entry.get("discount_amounts"))
    taxes = entry.get("taxes", entry.get("tax_amounts"))
    added = [each for each in taxes if not _is_inclusive(each)] if isinstance(taxes, list) else None
    parts = (own, None if discount is None else -discount, _sum(added))
    return Line(
        _price_id(entry),
        amount(entry.get("quantity")),
        subtotal,
        discount,
        _sum(taxes),
        total(parts),
        _is_proration(entry),
    )


def _is_inclusive(tax: object) -> bool:
    return isinstance(tax, dict) and (tax.get("tax_behavior") == "inclusive" or tax.get("inclusive") is True)


def _price_id(entry: Object) -> str | None:
    pricing = entry.get("pricing")
    details = pricing.get("price_details") if isinstance(pricing, dict) else None
    price = details.get("price") if isinstance(details, dict) else entry.get("price")
    price = price.get("id") if isinstance(price, dict) else price
    return price if is_id(price) else None


def _is_proration(entry: Object) -> bool:
    parent = entry.get("parent")
    found = [entry.get("proration")]
    if isinstance(parent, dict):
        found += [each.get("proration") for each in parent.values() if isinstance(each, dict)]
    return True in found


def _subscription_id(invoice: Object) -> object:
    parent = invoice.get("parent")
    details = parent.get("subscription_details") if isinstance(parent, dict) else None
    found = details.get("subscription") if isinstance(details, dict) else invoice.get("subscription")
    return found.get("id") if isinstance(found, dict) else found


def _start_s(entry: Object) -> int | None:
    period = entry.get("period")
    return _seconds(period.get("start")) if isinstance(period, dict) else None


def _seconds(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**33 else None


def _entries(invoice: Object) -> list[dict[str, Any]]:
    listed = invoice.get("lines")
    entries = listed.get("data") if isinstance(listed, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _sum(amounts: object) -> int | None:
    """Return the sum of a list of objects with an `amount`; None if it is no such list."""
    if not isinstance(amounts, list):
        return None
    return total(amount(each.get("amount")) if isinstance(each, dict) else None for each in amounts)
