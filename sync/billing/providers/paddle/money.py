"""Paddle's amounts: what a previewed change costs, and what a transaction has billed. Pure.

Paddle sends amounts as texts of minor units. A bill's `grand_total` is what is left to pay after credits; `balance` is
not used, since it is 0 once it is paid.
Source: https://developer.paddle.com/api-reference/subscriptions/preview-subscription-update
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sync.billing.domain.money.model import (
    BILL_AMOUNTS,
    CHANGE,
    LINE_AMOUNTS,
    LINES_MAX,
    NOT_KNOWN,
    NOTHING_BILLED,
    RENEWAL,
    Bill,
    Billed,
    Line,
    Money,
    amount,
    currency_of,
    exponent,
)
from sync.billing.providers.parsing import created_ns, is_id
from sync.core import instants

BILLED = ("transaction.billed", "transaction.past_due", "transaction.paid", "transaction.completed")

_REASONS = {"subscription_update": CHANGE, "subscription_recurring": RENEWAL}


def money_of(preview: Mapping[str, Any]) -> Money | None:
    """Return what a previewed change costs; None if the preview names no currency or no bill."""
    currency = currency_of(preview.get("currency_code"))
    if currency is None or not {"immediate_transaction", "next_transaction"} & preview.keys():
        return None
    coming = preview.get("next_transaction")
    period = coming.get("billing_period") if isinstance(coming, dict) else None
    source, name = (period, "starts_at") if isinstance(period, dict) else (preview, "next_billed_at")
    following = _bill(coming.get("details")) if isinstance(coming, dict) else None
    return Money(
        currency,
        exponent(currency),
        _now(preview),
        following,
        None if following is None else created_ns(source, name, instants.parse),
    )


def billed_of(kind: str, data: Mapping[str, Any]) -> Billed | None:
    """Return what a change or a renewal has billed; None if the event is about neither."""
    reason = _REASONS.get(str(data.get("origin"))) if kind in BILLED else None
    transaction_id, subscription_id = data.get("id"), data.get("subscription_id")
    details = data.get("details")
    totals = details.get("totals") if isinstance(details, dict) else None
    own = totals.get("currency_code") if isinstance(totals, dict) else None
    currency = currency_of(data.get("currency_code") or own)
    at_ns = created_ns(data, "created_at", instants.parse) or created_ns(data, "billed_at", instants.parse)
    if reason is None or currency is None or at_ns is None or not is_id(transaction_id) or not is_id(subscription_id):
        return None
    return Billed(transaction_id, subscription_id, reason, currency, at_ns, _bill(details))


def _now(preview: Mapping[str, Any]) -> Bill:
    """Return what is billed at once. Paddle shows no transaction if there is nothing to pay, but what is credited."""
    immediate = preview.get("immediate_transaction")
    if isinstance(immediate, dict):
        return _bill(immediate.get("details"))
    if "immediate_transaction" not in preview:
        return NOT_KNOWN
    summary = preview.get("update_summary")
    result = summary.get("result") if isinstance(summary, dict) else None
    if not isinstance(result, dict) or result.get("action") != "credit":
        return NOTHING_BILLED
    return NOTHING_BILLED._replace(credit_to_balance=amount(result.get("amount")))


def _bill(details: object) -> Bill:
    if not isinstance(details, dict):
        return NOT_KNOWN
    entries, found = details.get("line_items"), _amounts(details, (*BILL_AMOUNTS, "grand_total"))
    lines = None
    if isinstance(entries, list) and len(entries) <= LINES_MAX and all(isinstance(entry, dict) for entry in entries):
        lines = tuple([_line(entry) for entry in entries])
    due = found.pop("grand_total")
    return Bill(lines, **found, due=due)


def _line(entry: Mapping[str, Any]) -> Line:
    price, is_part = entry.get("price_id"), entry.get("proration") is not None
    found = _amounts(entry, LINE_AMOUNTS)
    return Line(price if is_id(price) else None, amount(entry.get("quantity")), **found, proration=is_part)


def _amounts(entry: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    totals = entry.get("totals")
    return {name: amount(totals.get(name)) if isinstance(totals, dict) else None for name in names}
