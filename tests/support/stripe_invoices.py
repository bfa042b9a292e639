"""The invoices of the small Stripe: of a change that is billed at once, and of the next period. Taxed at 19 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

UNIT_AMOUNT = 1_000
"""The amount of a unit of every price and period."""

Items = Sequence[Mapping[str, Any]]


def changed(items: Items, form: Mapping[str, str], prefix: str) -> list[dict[str, Any]]:
    """The items after the changes in a form: `PREFIX[INDEX][NAME]`."""
    after, index = deepcopy([dict(item) for item in items]), 0
    while any(name.startswith(f"{prefix}[{index}]") for name in form):
        line = {name: form.get(f"{prefix}[{index}][{name}]") for name in ("id", "price", "quantity", "deleted")}
        index += 1
        if line["id"] is None:
            assert line["price"] is not None
            after.append({**after[0], "id": f"si_new_{index}", "price": {"id": line["price"]}, "quantity": 1})
            line["id"] = f"si_new_{index}"
        item = next(one for one in after if one["id"] == line["id"])
        if line["deleted"]:
            after.remove(item)
        if line["price"]:
            item["price"] = {"id": line["price"], "object": "price"}
        if line["quantity"]:
            item["quantity"] = int(line["quantity"])
    return after


def invoice(subscription_id: str, lines: Sequence[dict[str, Any]], credit: int = 0, **fields: Any) -> dict[str, Any]:
    """An invoice of these lines, for a customer with a credit."""
    subtotal, tax = (sum(line["amount"] for line in lines), sum(line["taxes"][0]["amount"] for line in lines))
    details = {"subscription": subscription_id, "metadata": {}}
    return {
        "object": "invoice",
        "currency": "eur",
        "livemode": True,
        "subtotal": subtotal,
        "total": subtotal + tax,
        "total_excluding_tax": subtotal,
        "total_discount_amounts": [],
        "total_taxes": [{"amount": tax, "tax_behavior": "exclusive"}],
        "starting_balance": -credit,
        "amount_due": max(subtotal + tax - credit, 0),
        "parent": {"type": "subscription_details", "subscription_details": details},
        "lines": {"object": "list", "has_more": False, "data": list(lines)},
        **fields,
    }


def parts(before: Items, after: Items, at_s: int) -> list[dict[str, Any]]:
    """What is credited for the rest of the period, and what is charged for it."""
    old = {item["price"]["id"]: item["quantity"] for item in before}
    new = {item["price"]["id"]: item["quantity"] for item in after}
    changing = [price for price in dict.fromkeys((*old, *new)) if old.get(price) != new.get(price)]
    starts_s, ends_s = before[0]["current_period_start"], before[0]["current_period_end"]

    def part(units: int) -> int:
        return int(units * UNIT_AMOUNT * (ends_s - at_s) // (ends_s - starts_s))

    credited = [_line(price, old[price], -part(old[price]), at_s, is_part=True) for price in changing if price in old]
    return credited + [
        _line(price, new[price], part(new[price]), at_s, is_part=True) for price in changing if price in new
    ]


def period(items: Items) -> list[dict[str, Any]]:
    """What the next period costs."""
    starts_s = items[0]["current_period_end"]
    return [_line(i["price"]["id"], i["quantity"], i["quantity"] * UNIT_AMOUNT, starts_s) for i in items]


def _line(price: str, quantity: int, amount: int, starts_s: int, *, is_part: bool = False) -> dict[str, Any]:
    return {
        "object": "line_item",
        "amount": amount,
        "subtotal": amount,
        "quantity": quantity,
        "pricing": {"type": "price_details", "price_details": {"price": price}},
        "parent": {"type": "subscription_item_details", "subscription_item_details": {"proration": is_part}},
        "period": {"start": starts_s, "end": starts_s + 86_400},
        "discount_amounts": [],
        "taxes": [{"amount": amount * 19 // 100, "tax_behavior": "exclusive"}],
    }
