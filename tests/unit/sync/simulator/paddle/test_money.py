"""What the simulator quotes is what it bills: a property over plans, seats, billing modes and time."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import orjson
from hypothesis import given, strategies as st

from sync.billing.domain.facts.drift import money_drift
from sync.billing.domain.facts.model import Event
from sync.billing.domain.money.model import Billed, Money
from sync.billing.domain.money.quote import Quote
from sync.billing.providers.paddle.webhooks import PaddleWebhooks, read_preview
from sync.billing.providers.spec import BILLING_MODES
from sync.simulator.paddle import api, entities
from sync.simulator.world import rules
from sync.simulator.world.model import DAY_US, MINUTE_US, Item, Subscription
from sync.simulator.world.turn import Outcome
from tests.support.ledger import Ledger, assert_that_one_that_differs_is_found
from tests.support.world import LIVE, Play, price_id

PLANS = ("basic", "pro", "scale")
QUANTITIES = st.integers(1, 40)

changes = st.builds(
    lambda plan, quantity, addon: [
        {"price_id": price_id(plan), "quantity": quantity},
        *([{"price_id": price_id("audit"), "quantity": addon}] if addon else []),
    ],
    st.sampled_from([plan for plan in PLANS if LIVE.plan(plan)]),
    QUANTITIES,
    st.integers(0, 3),
)


def quoted(play: Play, subscription: Subscription, body: Any) -> Money:
    """What the simulator quotes for a change, as Planwire reads it."""
    document = api.preview(play.world, LIVE, subscription.id, body, play.now_us)
    money = read_preview(document, subscription.id, body["proration_billing_mode"]).money
    assert money is not None
    return Money.of(orjson.loads(orjson.dumps(money.document())))


def bills(outcome: Outcome) -> list[Billed]:
    """What Planwire reads of the bills among the events."""
    found = []
    for event in outcome.events:
        body = orjson.dumps(entities.envelope(event, "ntf_1"))
        parsed = PaddleWebhooks().parse(body, "live")
        assert isinstance(parsed, Event)
        found += [parsed.billed] if parsed.billed is not None else []
    return found


@given(QUANTITIES, changes, st.sampled_from(BILLING_MODES), st.integers(0, 25 * 24 * 60), st.lists(changes, max_size=2))
def test_what_is_quoted_is_what_is_billed_at_once_and_at_the_renewal(
    quantity: int, lines: Any, mode: str, minutes: int, earlier: Any
) -> None:
    play = Play()
    subscription = play.subscribed("basic", quantity)
    for before in earlier:  # what earlier changes have left for the next bill is in the quote
        play.now_us += MINUTE_US
        deferred = {"items": before, "proration_billing_mode": "prorated_next_billing_period"}
        play.keep(api.update(play.turn(), LIVE, subscription.id, deferred))
    play.now_us = min(play.now_us + minutes * MINUTE_US, subscription.period.ends_us - DAY_US)
    body = {"items": lines, "proration_billing_mode": mode}
    money = quoted(play, subscription, body)
    quote = Quote("pv_1", "tenant:acme", money, play.now_us * 1000)
    made = bills(play.keep(api.update(play.turn(), LIVE, subscription.id, body)))
    assert money.now.due is not None
    assert len(made) == (money.now.due > 0)
    assert all(quote.is_of(billed) and money_drift(quote, billed, 1) is None for billed in made)
    play.now_us = play.current(subscription).period.ends_us
    renewal = bills(play.keep(rules.renew(play.turn(), play.current(subscription))))
    assert [quote.is_of(billed) for billed in renewal] == [True]
    assert [money_drift(quote, billed, 1) for billed in renewal] == [None]


@given(QUANTITIES, changes, st.integers(1, 500), st.sampled_from(["full_immediately", "prorated_immediately"]))
def test_a_price_that_rises_between_quote_and_bill_is_drift(quantity: int, lines: Any, rise: int, mode: str) -> None:
    play = Play()
    subscription = play.subscribed("basic", quantity)
    play.now_us += MINUTE_US
    body = {"items": lines, "proration_billing_mode": mode}
    money = quoted(play, subscription, body)
    quote = Quote("pv_1", "tenant:acme", money, play.now_us * 1000)
    made = bills(play.keep(api.update(play.turn(), LIVE, subscription.id, body)))
    for billed in made:
        dearer = billed._replace(bill=billed.bill._replace(due=(billed.bill.due or 0) + rise))
        drift = money_drift(quote, dearer, 1)
        assert drift is not None
        assert drift.kind == "money"
        assert drift.here == {"currency": "USD", "due_now": money.now.due}
        assert drift.there == {"currency": "USD", "due_now": dearer.bill.due}
    play.keep(rules.move_end(play.turn(), play.current(subscription), play.now_us + DAY_US))
    current = play.current(subscription)
    dear = replace(current, items=tuple(_dearer(item, rise) for item in current.items))
    play.now_us = current.period.ends_us
    (renewal,) = bills(rules.renew(play.turn(), dear))
    late = replace(quote, money=replace(money, next_ns=current.period.ends_us * 1000))
    drift = money_drift(late, renewal, 1)
    assert late.is_of(renewal)
    assert drift is not None
    assert drift.why == f"renewal billed as {renewal.id}"


def _dearer(item: Item, rise: int) -> Item:
    return replace(item, price=replace(item.price, amount=item.price.amount + rise))


def test_a_later_change_is_not_compared_with_an_earlier_quote() -> None:
    play = Play()
    subscription = play.subscribed("basic", 2)
    body: Any = {"items": [{"price_id": price_id("pro"), "quantity": 2}], "proration_billing_mode": "full_immediately"}
    quote = Quote("pv_1", "tenant:acme", quoted(play, subscription, body), play.now_us * 1000)
    play.keep(api.update(play.turn(), LIVE, subscription.id, body))
    play.now_us += 2 * 60 * MINUTE_US
    more: Any = {"items": [{"price_id": price_id("pro"), "quantity": 9}], "proration_billing_mode": "full_immediately"}
    (billed,) = bills(play.keep(api.update(play.turn(), LIVE, subscription.id, more)))
    assert not quote.is_of(billed)
    play.now_us = play.current(subscription).period.ends_us
    (renewal,) = bills(play.keep(rules.renew(play.turn(), play.current(subscription))))
    assert not quote.is_of(renewal)


steps = st.fixed_dictionaries(
    {
        "items": changes,
        "mode": st.sampled_from(BILLING_MODES),
        "minutes": st.integers(1, 5 * 24 * 60),
        "tax": st.none() | st.floats(0, 30),
        "discount": st.none() | st.tuples(st.floats(0, 100), st.none() | st.integers(3600, 60 * 86_400)),
        "renews": st.booleans(),
    }
)


def played(history: Any) -> tuple[Ledger, list[Billed]]:
    """A history of quoted changes and renewals: the quotes, and all bills in order. No bill is compared yet."""
    play, ledger = Play(), Ledger()
    subscription, found = play.subscribed("basic", 2), []
    for step in history:
        if step["tax"] is not None:
            play.do("tax", percent=step["tax"])
        if step["discount"] is not None:
            percent, ends_in_s = step["discount"]
            play.do("discount", percent=percent, **({} if ends_in_s is None else {"ends_in_s": ends_in_s}))
        ends_us = play.current(subscription).period.ends_us
        play.now_us = max(play.now_us, min(play.now_us + step["minutes"] * MINUTE_US, ends_us - DAY_US))
        body = {"items": step["items"], "proration_billing_mode": step["mode"]}
        ledger.confirm(quoted(play, subscription, body), play.now_us * 1000)
        found += bills(play.keep(api.update(play.turn(), LIVE, subscription.id, body)))
        if step["renews"]:
            play.now_us = play.current(subscription).period.ends_us
            found += bills(play.keep(rules.renew(play.turn(), play.current(subscription))))
    return ledger, found


@given(st.lists(steps, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_history_is_billed_as_it_was_quoted_in_any_order_of_the_bills(history: Any, random: Random) -> None:
    ledger, found = played(history)
    random.shuffle(found)
    ledger.bill(*found, *found)
    assert ledger.drifts == []
    assert sorted(ledger.compared("change")) == sorted(ledger.due)
    assert len(ledger.compared("renewal")) == sum(step["renews"] for step in history)


@given(st.lists(steps, min_size=1, max_size=5), st.integers(1, 10**6), st.data())
def test_one_bill_that_differs_is_found_in_a_history(history: Any, by: int, data: st.DataObject) -> None:
    assert_that_one_that_differs_is_found(*played(history), by, data)


def test_tax_and_discount_are_in_the_quote_and_in_the_bill() -> None:
    play = Play()
    subscription = play.subscribed("basic", 2)
    play.do("tax", percent=19)
    play.do("discount", percent=12.5)
    body: Any = {"items": [{"price_id": price_id("pro"), "quantity": 3}], "proration_billing_mode": "full_immediately"}
    money = quoted(play, subscription, body)
    assert (money.now.subtotal, money.now.discount, money.now.tax, money.now.due) == (4000, 500, 665, 4165)
    assert money.next is not None
    assert (money.next.subtotal, money.next.discount, money.next.tax, money.next.due) == (6000, 750, 998, 6248)
    (billed,) = bills(play.keep(api.update(play.turn(), LIVE, subscription.id, body)))
    assert billed.bill == money.now


def test_a_discount_that_ends_before_the_renewal_is_in_the_first_bill_only() -> None:
    play = Play()
    subscription = play.subscribed("basic", 1)
    play.do("discount", percent=50, ends_in_s=3600)
    body: Any = {
        "items": [{"price_id": price_id("basic"), "quantity": 2}],
        "proration_billing_mode": "full_immediately",
    }
    money = quoted(play, subscription, body)
    assert money.next is not None
    assert (money.now.discount, money.now.due, money.next.discount, money.next.due) == (500, 500, 0, 2000)
