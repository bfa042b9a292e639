"""What Stripe previews is what it invoices: a property over histories of an account, and one invoice that differs."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import given, strategies as st

from sync.billing.domain.facts.model import Event, Item
from sync.billing.domain.money.model import Billed
from sync.billing.providers.stripe.item_changes import item_fields, preview_form
from sync.billing.providers.stripe.money import money_of
from sync.billing.providers.stripe.webhooks import AT_ONCE, PRORATIONS, StripeWebhooks
from tests.support.ledger import Ledger, assert_that_one_that_differs_is_found
from tests.support.stripe import Stripe

prices = st.sampled_from(["price_basic", "price_pro", "price_audit"])
items = st.lists(
    st.builds(Item, prices, st.integers(1, 9)), min_size=1, max_size=3, unique_by=lambda item: item.price_id
)
steps = st.fixed_dictionaries(
    {
        "items": items,
        "mode": st.sampled_from(sorted(PRORATIONS)),
        "after_s": st.integers(120, 86_400),
        "renews": st.booleans(),
    }
)


def previewed(stripe: Stripe, id: str, lines: dict[str, str], mode: str, at_s: int) -> Any:
    return json.loads(bytes(stripe.preview(preview_form(id, lines, PRORATIONS[mode], at_s)).body))


def bills(stripe: Stripe) -> list[Billed]:
    """What Planwire reads of the invoices."""
    found = []
    for body in stripe.billed:
        event = StripeWebhooks().parse(json.dumps(body).encode(), "live")
        assert isinstance(event, Event)
        found += [event.billed] if event.billed is not None else []
    return found


def played(history: Any) -> tuple[Ledger, list[Billed]]:
    """A history of quoted changes and renewals: the quotes, and all invoices. None is compared yet."""
    stripe, ledger = Stripe(), Ledger()
    id = stripe.add(price="price_basic", quantity=2)
    entries = stripe.subscriptions[id]["items"]["data"]
    at_s = entries[0]["current_period_start"] + 1
    for step in history:
        at_s = min(at_s + step["after_s"], entries[0]["current_period_end"] - 3_600)
        lines, mode = item_fields(entries, step["items"]), step["mode"]
        bills_at_once = bool(lines) and mode in AT_ONCE
        renewal = previewed(stripe, id, lines, "do_not_bill", at_s) if bills_at_once else None
        invoice = previewed(stripe, id, lines, mode, at_s)
        money = money_of(invoice, bills_at_once=bills_at_once, at_s=at_s, renewal=renewal)
        assert money is not None
        ledger.confirm(money, at_s * 10**9)
        if lines:
            form = {f"items{name}": value for name, value in lines.items()}
            fixed = {"payment_behavior": "error_if_incomplete", "proration_date": str(at_s)}
            stripe.update(id, {**form, **fixed, "proration_behavior": PRORATIONS[mode]})
        if step["renews"]:
            at_s = entries[0]["current_period_end"] + 1
            stripe.renew(id)
    return ledger, bills(stripe)


@given(st.lists(steps, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_history_is_billed_as_it_was_quoted_in_any_order_of_the_invoices(history: Any, random: Random) -> None:
    ledger, found = played(history)
    random.shuffle(found)
    ledger.bill(*found, *found)
    assert ledger.drifts == []
    assert set(ledger.due) <= set(ledger.compared("change"))
    assert len(ledger.compared("renewal")) == sum(step["renews"] for step in history)


@given(st.lists(steps, min_size=1, max_size=5), st.integers(1, 10**6), st.data())
def test_one_invoice_that_differs_is_found_in_a_history(history: Any, by: int, data: st.DataObject) -> None:
    assert_that_one_that_differs_is_found(*played(history), by, data)
