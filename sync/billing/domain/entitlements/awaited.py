"""What is awaited after a confirmed preview: the change, and the bills that were quoted for it. Pure.

Each subscription has at most one awaited change. A later change of it replaces what was quoted for the renewal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from sync.billing.domain.entitlements.preview import Preview, difference, entitlements
from sync.billing.domain.entitlements.projection import Projected
from sync.billing.domain.facts.instructions import AwaitedBill, AwaitedPreview
from sync.billing.domain.facts.model import PAID_STATUSES, Facts, Item, Subscription
from sync.billing.domain.money.model import CHANGE, RENEWAL, Money
from sync.billing.domain.money.quote import HOUR_NS, Quote

LANDS_WITHIN_NS = HOUR_NS
"""How long a confirmed change is awaited."""

CHANGE_BILLED_WITHIN_NS = 24 * HOUR_NS
"""Time after the confirmation at which a quoted charge without a bill is reported."""

RENEWAL_BILLED_WITHIN_NS = 72 * HOUR_NS
"""Time after the quoted instant at which a renewal without a bill is reported."""


class Miss(NamedTuple):
    """An awaited change that is not as predicted. `why`: whether it was made."""

    preview_id: str
    differences: list[dict[str, object]]
    why: str


def await_preview(facts: Facts, preview_id: str, foreseen: Preview, now_ns: int, money: Money | None = None) -> Facts:
    """Return the facts with the previewed change awaited, and the bills that are quoted in `money`.

    They replace what is awaited of the same subscription, except the bill of a change that has landed.
    """
    body, key = foreseen.body, foreseen.key
    items, until_ns = tuple(sorted(body.items)), now_ns + LANDS_WITHIN_NS
    awaited = AwaitedPreview(preview_id, key, items, body.status, foreseen.entitlements, until_ns, foreseen.app)
    for one in facts.awaited_previews:
        if one.subscription == key:
            facts = without_preview(facts, one.preview_id)
    bills = tuple([one for one in facts.awaited_bills if (one.subscription, one.reason) != (key, RENEWAL)])
    if money is not None:
        bills += tuple(_bills(preview_id, key, money, now_ns))
    return replace(facts, awaited_previews=(*facts.awaited_previews, awaited), awaited_bills=bills)


def _bills(preview_id: str, key: str, money: Money, now_ns: int) -> Iterator[AwaitedBill]:
    if money.now.due:
        yield AwaitedBill(preview_id, key, CHANGE, now_ns + CHANGE_BILLED_WITHIN_NS)
    if money.next is not None and money.next.due and money.next_ns is not None:
        yield AwaitedBill(preview_id, key, RENEWAL, money.next_ns + RENEWAL_BILLED_WITHIN_NS)


def without_preview(facts: Facts, preview_id: str) -> Facts:
    """Return the facts without a preview whose change is not made, and without its bills."""
    return replace(
        facts,
        awaited_previews=tuple([one for one in facts.awaited_previews if one.preview_id != preview_id]),
        awaited_bills=tuple([one for one in facts.awaited_bills if one.preview_id != preview_id]),
    )


def check_awaited(before: Facts, after: Facts, projected: Projected, now_ns: int) -> tuple[Facts, list[Miss]]:
    """Return the facts without the awaited previews that have landed or were missed, and how they differ.

    A change has landed when the subscription has the predicted items and status. Another change of them, or none in
    time, is a miss: then it is not billed either.
    """
    misses = []
    for awaited in before.awaited_previews:
        end = _end(awaited, before, after, projected, now_ns) if awaited in after.awaited_previews else None
        if end is None:
            continue
        has_landed, found = end
        rest = tuple([one for one in after.awaited_previews if one != awaited])
        after = replace(after, awaited_previews=rest) if has_landed else without_preview(after, awaited.preview_id)
        misses += [Miss(awaited.preview_id, found, "landed" if has_landed else "not made")] if found else []
    return after, misses


def _end(
    awaited: AwaitedPreview, before: Facts, after: Facts, projected: Projected, now_ns: int
) -> tuple[bool, list[dict[str, object]]] | None:
    """Return whether a change has landed, and how it differs from its prediction; None while it is awaited."""
    old, new = before.subscriptions.get(awaited.subscription), after.subscriptions.get(awaited.subscription)
    if new is None:
        return False, []
    body = new.subscription
    if (_as_asked_for(body, awaited.items), body.status) == (awaited.items, awaited.status):
        return True, difference(awaited.entitlements, entitlements(projected.state, awaited.app))
    moved = old is not None and (old.subscription.items, old.subscription.status) != (body.items, body.status)
    if not moved and now_ns < awaited.until_ns:
        return None
    foreseen: dict[str, object] = {"items": [list(item) for item in awaited.items], "status": awaited.status}
    return False, difference(foreseen, {"items": [list(item) for item in sorted(body.items)], "status": body.status})


def _as_asked_for(body: Subscription, asked: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return the items of a subscription, those whose product was asked for with its id instead of the price's."""
    ids = {item.price_id for item in asked}
    products = {price_id: product_id for price_id, product_id in body.products.items() if product_id in ids}
    return tuple(sorted([Item(products.get(price_id, price_id), quantity) for price_id, quantity in body.items]))


def is_billable(facts: Facts, bill: AwaitedBill, quote: Quote) -> bool:
    """Return whether a bill is overdue and not void: the subscription is as it was when the quoted period began."""
    entry = facts.subscriptions.get(bill.subscription)
    if entry is None:
        return False
    if bill.reason == CHANGE:
        return True
    body, money = entry.subscription, quote.money
    if money is None or money.next is None or money.next.units is None or money.next_ns is None or body.period is None:
        return False
    began = body.period.starts_ns >= money.next_ns - HOUR_NS
    return began and body.status in PAID_STATUSES and dict(body.items) == dict(money.next.units)
