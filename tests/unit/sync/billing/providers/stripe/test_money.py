"""Stripe's amounts, in previews and in invoices of older and newer API versions."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.domain.money.model import NOT_KNOWN, NOTHING_BILLED, Bill, Line
from sync.billing.providers.stripe.money import billed_of, money_of

NOW_S = 1_795_000_000
NEXT_S = NOW_S + 10 * 86_400


def line(price: str, quantity: int, amount: int, tax: int = 0, *, part: bool = False, start_s: int = NEXT_S) -> Any:
    """A line as newer API versions show it."""
    item = {"proration": part, "subscription": "sub_1"}
    return {
        "object": "line_item",
        "amount": amount,
        "subtotal": amount,
        "quantity": quantity,
        "pricing": {"type": "price_details", "price_details": {"price": price, "product": "prod_1"}},
        "parent": {"type": "subscription_item_details", "subscription_item_details": item},
        "period": {"start": NOW_S if part else start_s, "end": NEXT_S + 1},
        "discount_amounts": [],
        "taxes": [{"amount": tax, "tax_behavior": "exclusive"}] if tax else [],
    }


def invoice(*lines: Any, balance: int = 0, **fields: Any) -> Any:
    subtotal = sum(each["amount"] for each in lines)
    tax = sum(each["amount"] for one in lines for each in one.get("taxes", ()))
    total = subtotal + tax
    return {
        "object": "invoice",
        "currency": "eur",
        "subtotal": subtotal,
        "total": total,
        "total_excluding_tax": subtotal,
        "total_discount_amounts": [],
        "starting_balance": balance,
        "amount_due": max(total + balance, 0),
        "period_end": NEXT_S,
        "lines": {"object": "list", "has_more": False, "data": list(lines)},
        **fields,
    }


def change() -> Any:
    return [line("price_pro", 3, -900, -171, part=True), line("price_pro", 5, 1500, 285, part=True)]


def test_a_change_that_is_billed_at_once_shows_now_and_the_renewal() -> None:
    renewal = invoice(line("price_pro", 5, 5000, 950))
    money = money_of(invoice(*change(), balance=-14), bills_at_once=True, at_s=NOW_S, renewal=renewal)
    assert money is not None
    assert (money.currency, money.exponent, money.at_ns, money.next_ns) == ("EUR", 2, NOW_S * 10**9, NEXT_S * 10**9)
    assert money.now == Bill(
        (
            Line("price_pro", 3, -900, 0, -171, -1071, proration=True),
            Line("price_pro", 5, 1500, 0, 285, 1785, proration=True),
        ),
        600,
        0,
        114,
        714,
        14,
        0,
        700,
    )
    assert money.next == Bill((Line("price_pro", 5, 5000, 0, 950, 5950),), 5000, 0, 950, 5950, 0, 0, 5950)


@pytest.mark.parametrize("at_s", [NOW_S, None])
def test_a_change_that_is_billed_later_bills_nothing_now(at_s: int | None) -> None:
    coming = invoice(*change(), line("price_pro", 5, 5000, 950))
    money = money_of(coming, bills_at_once=False, at_s=at_s)
    assert money is not None
    assert (money.now, money.at_ns) == (NOTHING_BILLED, NOW_S * 10**9)
    assert money.next is not None
    assert (money.next.due, money.next_ns) == (6664, NEXT_S * 10**9)


def test_a_preview_that_mixes_the_change_and_the_renewal_does_not_say_what_is_due_now() -> None:
    mixed, renewal = invoice(*change(), line("price_pro", 5, 5000, 950)), invoice(line("price_pro", 5, 5000, 950))
    money = money_of(mixed, bills_at_once=True, at_s=NOW_S, renewal=renewal)
    assert money is not None
    assert (money.now.subtotal, money.now.tax, money.now.total, money.now.due) == (600, 114, 714, None)
    assert money.next is not None
    assert money.next.due == 5950
    money = money_of(mixed, bills_at_once=True)
    assert money is not None
    assert (money.now, money.next_ns) == (NOT_KNOWN, NEXT_S * 10**9)
    assert money.next is not None
    assert money.next.due == 6664


@pytest.mark.parametrize("at_once", [True, False])
def test_without_periods_the_billing_mode_says_when_it_is_billed(at_once: bool) -> None:
    entry = line("price_pro", 1, 1500)
    del entry["period"]
    money = money_of(invoice(entry, currency="jpy"), bills_at_once=at_once)
    assert money is not None
    assert money.now.due == (1500 if at_once else 0)
    assert (money.next is None) is at_once


def test_a_change_of_the_interval_is_billed_at_once_whatever_the_mode() -> None:
    yearly = invoice(line("price_yearly", 1, 60_000, start_s=NOW_S))
    money = money_of(yearly, bills_at_once=False, at_s=NOW_S)
    assert money is not None
    assert (money.now.due, money.next) == (60_000, None)


def test_credit_that_is_left_goes_to_the_balance() -> None:
    money = money_of(invoice(line("price_basic", 1, -500, part=True)), bills_at_once=True, at_s=NOW_S)
    assert money is not None
    assert (money.now.total, money.now.due, money.now.credit, money.now.credit_to_balance) == (-500, 0, 0, 500)


@pytest.mark.parametrize(
    ("currency", "exponent"), [("jpy", 0), ("krw", 0), ("isk", 2), ("ugx", 2), ("mga", 0), ("bhd", 3), ("usd", 2)]
)
def test_stripe_counts_some_minor_units_in_its_own_way(currency: str, exponent: int) -> None:
    money = money_of(invoice(*change(), currency=currency), bills_at_once=True)
    assert money is not None
    assert (money.currency, money.exponent) == (currency.upper(), exponent)


def test_amounts_that_are_not_there_are_not_known() -> None:
    money = money_of({"object": "invoice", "currency": "eur", "amount_due": 100}, bills_at_once=True)
    assert money is not None
    assert money.document() == {"currency": "EUR", "exponent": 2}
    assert money_of({"object": "invoice", "amount_due": 100}, bills_at_once=True) is None


def test_an_invoice_of_an_older_api_version_says_the_same() -> None:
    old = {
        "id": "in_1",
        "object": "invoice",
        "subscription": "sub_1",
        "billing_reason": "subscription_cycle",
        "created": NEXT_S,
        "currency": "usd",
        "subtotal": 2000,
        "tax": 380,
        "total": 2380,
        "amount_due": 2380,
        "starting_balance": 0,
        "total_discount_amounts": [{"amount": 0}],
        "lines": {
            "has_more": False,
            "data": [
                {
                    "amount": 2000,
                    "quantity": 2,
                    "price": {"id": "price_basic"},
                    "proration": False,
                    "discount_amounts": [],
                    "tax_amounts": [{"amount": 380, "inclusive": False}],
                    "period": {"start": NEXT_S, "end": NEXT_S + 1},
                }
            ],
        },
    }
    billed = billed_of("invoice.paid", old)
    assert billed is not None
    assert (billed.id, billed.subscription_id, billed.reason, billed.at_ns) == (
        "in_1",
        "sub_1",
        "renewal",
        NEXT_S * 10**9,
    )
    assert billed.bill == Bill((Line("price_basic", 2, 2000, 0, 380, 2380),), 2000, 0, 380, 2380, 0, 0, 2380)


def test_an_invoice_of_a_newer_api_version_names_its_subscription_in_its_parent() -> None:
    parent = {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}}
    new = invoice(*change(), id="in_1", parent=parent, billing_reason="subscription_update", created=NOW_S)
    billed = billed_of("invoice.finalized", new)
    assert billed is not None
    assert (billed.subscription_id, billed.reason, billed.bill.due) == ("sub_1", "change", 714)
    assert billed_of("invoice.created", new) is None
    assert billed_of("invoice.paid", new | {"billing_reason": "manual"}) is None


def test_inclusive_tax_is_in_the_total_once_and_lines_in_part_are_not_known() -> None:
    entry = line("price_pro", 1, 1190)
    entry["taxes"] = [{"amount": 190, "tax_behavior": "inclusive"}]
    body = invoice(entry, total=1190, total_excluding_tax=1000, amount_due=1190)
    money = money_of(body, bills_at_once=False, at_s=NOW_S)
    assert money is not None
    assert money.next is not None
    assert money.next.lines == (Line("price_pro", 1, 1190, 0, 190, 1190),)
    assert (money.next.tax, money.next.total) == (190, 1190)
    body["lines"]["has_more"] = True
    money = money_of(body, bills_at_once=False, at_s=NOW_S)
    assert money is not None
    assert money.next is not None
    assert money.next.lines is None
