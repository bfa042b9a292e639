"""Amounts are compared line by line."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.domain.money.differences import from_expected, from_quoted

PRO = {"price_id": "pri_pro", "quantity": 2, "subtotal": 2000, "tax": 380, "total": 2380}
AUDIT = {"price_id": "pri_audit", "quantity": 1, "subtotal": 500, "tax": 95, "total": 595}
QUOTED: dict[str, Any] = {
    "currency": "EUR",
    "exponent": 2,
    "lines": [PRO, AUDIT],
    "subtotal": 2500,
    "tax": 475,
    "total": 2975,
    "due_now": 2975,
    "next": {"amount": 5950, "at": "2026-12-29T00:00:00Z", "lines": [PRO]},
}


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"due_now": 2975},
        {"currency": "EUR", "total": 2975, "next": {"amount": 5950}},
        {"lines": [{"price_id": "pri_audit"}, {"price_id": "pri_pro", "quantity": 2}]},
        QUOTED,
    ],
)
def test_what_is_expected_and_quoted_makes_no_difference(expected: Any) -> None:
    assert from_expected(expected, QUOTED) == []


@pytest.mark.parametrize(
    ("expected", "differences"),
    [
        ({"due_now": 2900}, [("due_now", 2900, 2975)]),
        ({"due_now": 0}, [("due_now", 0, 2975)]),
        ({"currency": "USD"}, [("currency", "USD", "EUR")]),
        ({"discount": 0}, [("discount", 0, None)]),
        ({"next": {"amount": 1}}, [("next.amount", 1, 5950)]),
        ({"lines": [{**PRO, "total": 1}, AUDIT]}, [("lines.pri_pro.total", 1, 2380)]),
        ({"lines": [{**PRO, "quantity": 3}, AUDIT]}, [("lines.pri_pro.quantity", 3, 2)]),
        ({"lines": [PRO]}, [("lines.pri_audit", None, AUDIT)]),
        (
            {"lines": [PRO, {"price_id": "pri_other", "total": 1}, AUDIT]},
            [("lines.pri_other", {"price_id": "pri_other", "total": 1}, None)],
        ),
        ({"next": {"lines": [{"price_id": "pri_pro", "tax": 1}]}}, [("next.lines.pri_pro.tax", 1, 380)]),
    ],
)
def test_each_difference_is_named(expected: Any, differences: list[tuple[str, object, object]]) -> None:
    found = from_expected(expected, QUOTED)
    assert [(each["path"], each.get("from"), each.get("to")) for each in found] == differences


def test_a_difference_from_nothing_has_no_to() -> None:
    assert from_expected({"total": 1, "lines": [PRO], "next": {"amount": 2}}, {}) == [
        {"path": "total", "from": 1},
        {"path": "lines", "from": [PRO]},
        {"path": "next.amount", "from": 2},
    ]


def test_lines_of_one_price_are_told_apart_by_their_amounts() -> None:
    back, on = {"price_id": "pri_pro", "total": -900}, {"price_id": "pri_pro", "total": 1500}
    assert from_expected({"lines": [on, back]}, {"lines": [back, on]}) == []
    assert from_expected({"lines": [back, {**on, "total": 1}]}, {"lines": [back, on]}) == [
        {"path": "lines.pri_pro.total", "from": 1, "to": 1500}
    ]
    assert from_expected({"lines": [back]}, {"lines": [back, on, {"total": 7}]}) == [
        {"path": "lines.pri_pro", "to": on},
        {"path": "lines.other", "to": {"total": 7}},
    ]


def test_one_of_two_equal_lines_is_missing() -> None:
    line = {"price_id": "pri_pro", "total": 5}
    assert from_expected({"lines": [line, line]}, {"lines": [line]}) == [{"path": "lines.pri_pro", "from": line}]


def test_a_bill_is_compared_in_what_both_say() -> None:
    assert from_quoted(QUOTED, {"currency": "EUR", "due_now": 2975}) == []
    assert from_quoted({"currency": "EUR", "due_now": 1}, {"currency": "EUR", "due_now": 2, "tax": 3}) == [
        {"path": "due_now", "from": 1, "to": 2}
    ]
    bare = {"price_id": "pri_pro", "quantity": 2}
    assert from_quoted({"lines": [PRO]}, {"lines": [bare]}) == []
