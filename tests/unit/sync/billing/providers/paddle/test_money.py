"""Paddle's amounts, in previews and in transactions."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from sync.billing.domain.money.model import NOT_KNOWN, NOTHING_BILLED, Bill, Line
from sync.billing.providers.paddle.money import billed_of, money_of
from sync.core import instants
from tests.support.bodies import official

NEXT_AT = "2026-12-29T00:00:00Z"


def details(*lines: tuple[str, int, int, int], credit: int = 0, discount: int = 0, currency: str = "EUR") -> Any:
    """Details as Paddle's: (price, quantity, subtotal, tax)."""
    subtotal, tax = sum(line[2] for line in lines), sum(line[3] for line in lines)
    total = subtotal - discount + tax
    totals: dict[str, int | None] = {
        "subtotal": subtotal,
        "discount": discount,
        "tax": tax,
        "total": total,
        "credit": credit,
    }
    totals |= {"credit_to_balance": 0, "balance": 0, "grand_total": total - credit, "fee": None}
    return {
        "totals": {name: value if value is None else str(value) for name, value in totals.items()}
        | {"currency_code": currency},
        "line_items": [
            {
                "price_id": price,
                "quantity": quantity,
                "proration": {"rate": "0.5"} if price.startswith("part") else None,
                "totals": {"subtotal": str(part), "discount": "0", "tax": str(tax), "total": str(part + tax)},
            }
            for price, quantity, part, tax in lines
        ],
    }


def preview(**fields: Any) -> Any:
    period = {"starts_at": NEXT_AT, "ends_at": "2027-01-29T00:00:00Z"}
    return {
        "currency_code": "EUR",
        "immediate_transaction": {
            "billing_period": period,
            "details": details(("part_pro", 3, 3000, 570), credit=1190),
            "adjustments": [],
        },
        "next_transaction": {"billing_period": period, "details": details(("pri_pro", 3, 6000, 1140))},
        "update_summary": {"result": {"action": "charge", "amount": "2380", "currency_code": "EUR"}},
        **fields,
    }


def test_a_preview_says_what_is_due_now_and_at_the_renewal() -> None:
    money = money_of(preview())
    assert money is not None
    assert (money.currency, money.exponent, money.next_ns) == ("EUR", 2, instants.parse(NEXT_AT))
    assert money.now == Bill(
        (Line("part_pro", 3, 3000, 0, 570, 3570, proration=True),), 3000, 0, 570, 3570, 1190, 0, 2380
    )
    assert money.next == Bill((Line("pri_pro", 3, 6000, 0, 1140, 7140),), 6000, 0, 1140, 7140, 0, 0, 7140)
    assert money.document() == {
        "currency": "EUR",
        "exponent": 2,
        "lines": [
            {
                "price_id": "part_pro",
                "quantity": 3,
                "subtotal": 3000,
                "discount": 0,
                "tax": 570,
                "total": 3570,
                "proration": True,
            }
        ],
        "subtotal": 3000,
        "discount": 0,
        "tax": 570,
        "total": 3570,
        "credit": 1190,
        "credit_to_balance": 0,
        "due_now": 2380,
        "next": {
            "lines": [
                {"price_id": "pri_pro", "quantity": 3, "subtotal": 6000, "discount": 0, "tax": 1140, "total": 7140}
            ],
            "subtotal": 6000,
            "discount": 0,
            "tax": 1140,
            "total": 7140,
            "credit": 0,
            "credit_to_balance": 0,
            "amount": 7140,
            "at": "2026-12-29T00:00:00Z",
        },
    }


def test_no_transaction_at_once_bills_nothing_and_a_missing_one_is_not_known() -> None:
    nothing = money_of(preview(immediate_transaction=None))
    assert nothing is not None
    assert nothing.now == NOTHING_BILLED
    summary = {"result": {"action": "credit", "amount": "900", "currency_code": "EUR"}}
    credited = money_of(preview(immediate_transaction=None, update_summary=summary))
    assert credited is not None
    assert (credited.now.due, credited.now.credit_to_balance) == (0, 900)
    body = preview()
    del body["immediate_transaction"]
    unknown = money_of(body)
    assert unknown is not None
    assert unknown.now == NOT_KNOWN
    assert "due_now" not in unknown.document()
    ends = money_of(preview(next_transaction=None))
    assert ends is not None
    assert (ends.next, ends.next_ns, "next" in ends.document()) == (None, None, False)


def test_a_preview_without_currency_or_bills_says_nothing_of_money() -> None:
    assert money_of({"status": "active", "items": []}) is None
    assert money_of(preview(currency_code=None)) is None


@pytest.mark.parametrize("wrong", [10.5, "10.5", True, None, "", "a", str(2**60), [], "-"])
def test_an_amount_that_is_no_whole_number_is_not_known(wrong: object) -> None:
    body = preview()
    body["immediate_transaction"]["details"]["totals"]["tax"] = wrong
    body["immediate_transaction"]["details"]["line_items"][0]["totals"]["tax"] = wrong
    money = money_of(body)
    assert money is not None
    assert money.now.tax is None
    assert money.now.lines is not None
    assert money.now.lines[0].tax is None
    assert (money.now.total, money.now.due) == (3570, 2380)


@pytest.mark.parametrize(("currency", "exponent"), [("JPY", 0), ("KRW", 0), ("VND", 0), ("CLP", 0), ("KWD", 3)])
def test_a_currency_has_its_own_minor_unit(currency: str, exponent: int) -> None:
    money = money_of(preview(currency_code=currency))
    assert money is not None
    assert (money.currency, money.exponent) == (currency, exponent)


@pytest.mark.parametrize("kind", ["transaction.billed", "transaction.paid", "transaction.completed"])
@pytest.mark.parametrize(
    ("origin", "reason"), [("subscription_update", "change"), ("subscription_recurring", "renewal")]
)
def test_a_transaction_is_a_bill(kind: str, origin: str, reason: str) -> None:
    data = {
        "id": "txn_1",
        "subscription_id": "sub_1",
        "origin": origin,
        "currency_code": "EUR",
        "created_at": NEXT_AT,
        "details": details(("pri_pro", 3, 6000, 1140), discount=600),
    }
    billed = billed_of(kind, data)
    assert billed is not None
    assert (billed.id, billed.subscription_id, billed.reason, billed.currency) == ("txn_1", "sub_1", reason, "EUR")
    assert (billed.at_ns, billed.bill.discount, billed.bill.due) == (instants.parse(NEXT_AT), 600, 6540)


def test_other_transactions_are_no_bills() -> None:
    data = deepcopy(official("transaction.completed"))
    assert data["origin"] == "web"
    assert billed_of("transaction.completed", data) is None
    data |= {"origin": "subscription_recurring"}
    billed = billed_of("transaction.completed", data)
    assert billed is not None
    assert (billed.bill.subtotal, billed.bill.tax, billed.bill.due) == (59900, 5315, 65215)
    assert [(line.quantity, line.tax) for line in billed.bill.lines or ()] == [(10, 2662), (1, 887), (1, 1766)]
    assert billed_of("transaction.created", data) is None
    assert billed_of("transaction.completed", data | {"subscription_id": None}) is None
