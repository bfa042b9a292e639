"""What two tenants know of a subscription that moves from one to the other."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Granted, Item, Order, Subscription, SubscriptionFacts
from sync.billing.domain.facts.moves import MOVED_MAX, ChangedSinceError, given, joined, taken
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.providers.stripe.webhooks import StripeWebhooks
from tests.support.stripe_histories import CHECKOUT, encoded, history

KEY = "paddle:sub_1"


def entry(day: int, status: str = "active", **fields: object) -> SubscriptionFacts:
    order = Order(day, day, f"evt_{day}")
    settled, marks = (None, (order,)) if status == "past_due" else (order, ())
    facts = SubscriptionFacts("paddle", Subscription("sub_1", status, (Item("pri_pro", day),)), order, settled, marks)
    return replace(facts, **fields)  # type: ignore[arg-type]


HERE = Facts({KEY: entry(1)})


def test_a_subscription_is_given_and_taken_once() -> None:
    there = given(NOTHING, KEY, entry(1), (), 10)
    assert there.subscriptions == {KEY: entry(1, moved_us=10)}
    assert given(there, KEY, None, (), 10) == there
    here = taken(HERE, KEY, entry(1), 10)
    assert (here.subscriptions, here.moved) == ({}, {KEY: 10})
    assert taken(here, KEY, None, 10) == here


def test_a_tenant_without_facts_is_not_made() -> None:
    assert taken(NOTHING, KEY, None, 10) == NOTHING
    assert given(NOTHING, KEY, None, (), 10) == NOTHING


def test_steps_of_an_older_move_change_nothing() -> None:
    """A to B at 10, and back at 20."""
    a, b = given(Facts(moved={KEY: 10}), KEY, entry(1), (), 20), Facts({"x": entry(3)}, moved={KEY: 20})
    assert (a.moved, a.subscriptions[KEY].moved_us) == ({}, 20)
    assert taken(a, KEY, entry(1), 10) == a
    assert given(b, KEY, entry(1), (), 10) == b


def test_what_changed_since_it_was_given_is_not_taken() -> None:
    with pytest.raises(ChangedSinceError):
        taken(HERE, KEY, entry(2), 10)


def test_a_scheduled_change_and_the_operator_s_word_go_with_it() -> None:
    change = ScheduledPlanChange(KEY, "basic", 99, ())
    here = taken(replace(HERE, scheduled_changes=(change,)), KEY, entry(1), 10)
    there = given(NOTHING, KEY, entry(1, is_vouched=True), [change], 10)
    assert (here.scheduled_changes, there.scheduled_changes) == ((), (change,))
    assert not there.subscriptions[KEY].is_vouched, "for the old tenant it was vouched"
    assert given(NOTHING, KEY, entry(1), (), 10, is_vouched=True).subscriptions[KEY].is_vouched


@pytest.mark.parametrize(
    ("one", "other"),
    [(entry(1), entry(2)), (entry(1), entry(2, "past_due")), (entry(2, "past_due"), entry(3, "past_due"))],
)
def test_both_together_are_the_same_in_either_order(one: SubscriptionFacts, other: SubscriptionFacts) -> None:
    assert joined(one, other) == joined(other, one) == joined(joined(one, other), one)
    both = joined(one, other)
    assert both is not None
    assert both.subscription == other.subscription
    assert both.past_due == tuple(sorted({*one.past_due, *other.past_due}))
    assert joined(one, None) == joined(None, one) == one


def test_the_newest_tombstones_are_kept() -> None:
    many = replace(HERE, moved={f"paddle:old_{number}": number for number in range(MOVED_MAX)})
    moved = taken(many, KEY, entry(1), MOVED_MAX).moved
    assert len(moved) == MOVED_MAX
    assert KEY in moved
    assert "paddle:old_0" not in moved


def test_a_subscription_that_moves_within_one_second_is_as_its_events_say() -> None:
    """Each tenant has one event of the second, and the ids tell nothing."""
    for seed in range(4):
        created, updated = [
            StripeWebhooks().parse(encoded(each), "live") for each in history(CHECKOUT, random.Random(seed))
        ]
        assert isinstance(created, Event)
        assert isinstance(updated, Event)
        one, other = (reduce(NOTHING, each) for each in (created, updated))
        assert isinstance(one, Reduced)
        assert isinstance(other, Reduced)
        (here,), (there,) = one.facts.subscriptions.values(), other.facts.subscriptions.values()
        standing_in = Granted(created.order, here.subscription.items)
        whole = joined(here, replace(there, granted=standing_in))
        assert whole == joined(replace(there, granted=standing_in), here)
        assert whole is not None
        assert (whole.subscription, len(whole.recent)) == (updated.subscription, 2)
        assert whole.granted == standing_in
