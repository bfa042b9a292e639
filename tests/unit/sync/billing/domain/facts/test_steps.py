"""Events of one second end as they happened, whatever their ids and the order of their arrival."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item, Order, Subscription, SubscriptionFacts
from sync.billing.domain.facts.recent_events import INSTANT_EVENTS_MAX
from sync.billing.domain.facts.reducer import Reduced, Stale, merge_fetched, received, reduce
from sync.billing.domain.facts.steps import Kind, Seen, Step, last
from sync.billing.providers.stripe.webhooks import StripeWebhooks, fetched
from tests.support.stripe_bodies import NOW, body
from tests.support.stripe_histories import CHECKOUT, HISTORIES, Change, encoded, history, items

STRIPE = StripeWebhooks()
S = 1_000_000_000
KEY = "stripe:sub_1"


def parsed(events: Iterable[dict[str, Any]]) -> list[Event]:
    found = [STRIPE.parse(encoded(each), "live") for each in events]
    assert all(isinstance(each, Event) for each in found)
    return [each for each in found if isinstance(each, Event)]


def happened(changes: Iterable[Change], seed: int = 0) -> list[Event]:
    return parsed(history(changes, random.Random(seed)))


def fold(events: Iterable[Event], facts: Facts = NOTHING, received_s: int = NOW + 60) -> Facts:
    """The facts after the events, each received a millisecond after the one before."""
    for number, event in enumerate(events):
        result = reduce(facts, received(facts, event, received_s * S + number * 1_000_000))
        facts = codec.decode(codec.encode(result.facts)) if isinstance(result, Reduced) else facts
    return facts


def end(facts: Facts) -> tuple[object, ...]:
    """What a tenant sees of the facts."""
    known = facts.subscriptions[KEY]
    return known.subscription, known.past_due_since_ns


def known(facts: Facts) -> SubscriptionFacts:
    return facts.subscriptions[KEY]


@pytest.mark.parametrize("name", HISTORIES)
def test_every_order_of_arrival_ends_like_the_order_of_what_happened(name: str) -> None:
    for seed in range(3):
        events = happened(HISTORIES[name], seed)
        ends = {end(fold(order)) for order in itertools.permutations(events)}
        assert ends == {end(fold(events))}
        assert end(fold(events))[0] == events[-1].subscription


@pytest.mark.parametrize("name", HISTORIES)
def test_grace_starts_with_the_last_run_of_past_due(name: str) -> None:
    events = happened(HISTORIES[name])
    since_ns = None
    for event in events:
        assert event.subscription is not None
        if event.subscription.status != "past_due":
            since_ns = None
        elif since_ns is None:
            since_ns = event.order.occurred_ns
    assert known(fold(events)).past_due_since_ns == since_ns


LATER: list[Change] = [
    (6, "updated", {"items": items(("price_pro", 2))}),
    (8, "updated", {"latest_invoice": "in_3"}),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("failing", "since_s"),
    [
        (
            [
                (4, "updated", {"cancel_at_period_end": True}),
                (4, "updated", {"status": "past_due"}),
                (4, "updated", {"latest_invoice": "in_2"}),
            ],
            4,
        ),
        ([(0, "updated", {"status": "past_due"}), (5, "updated", {"cancel_at_period_end": True})], 0),
    ],
)
def test_grace_starts_at_the_same_time_in_every_order(failing: list[Change], since_s: int, seed: int) -> None:
    """Also if the events of the second in which the payment failed arrive last."""
    created, *events = happened([(0, "created", {}), *failing, *LATER], seed)
    expected = end(fold([created, *events]))
    assert expected[1] == (NOW + since_s) * S
    for order in itertools.permutations(events):
        assert end(fold([created, *order])) == end(fold([*order, created])) == expected


STATES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["active", "past_due", "trialing", "unpaid"]),
        "items": st.integers(1, 3).map(lambda quantity: items(("price_pro", quantity))),
        "latest_invoice": st.sampled_from(["in_1", "in_2", "in_3"]),
        "pause_collection": st.sampled_from(
            [None, {"behavior": "void", "resumes_at": None}, {"behavior": "void", "resumes_at": NOW + 9}]
        ),
        "metadata": st.sampled_from([{"tenant_id": "acme"}, {"tenant_id": "acme", "seen": "1"}]),
        "cancel_at_period_end": st.booleans(),
    },
)


@settings(deadline=None)
@given(st.data())
def test_any_walk_in_one_second_ends_the_same(data: st.DataObject) -> None:
    """Where it begins is known: by a creation in the same second, or by the second before."""
    walk = data.draw(st.lists(STATES, min_size=1, max_size=6))
    second = data.draw(st.integers(0, 1))
    changes: list[Change] = [(0, "created", {"status": "incomplete"}), *((second, "updated", each) for each in walk)]
    events = happened(changes, data.draw(st.integers(0, 1000)))
    assert end(fold(data.draw(st.permutations(events)))) == end(fold(events))
    assert end(fold(events))[0] == events[-1].subscription


@settings(deadline=None)
@given(st.data())
def test_walks_of_several_seconds_end_the_same(data: st.DataObject) -> None:
    """Also the kinds of events that show no change: a trial that will end, a pause, a resumption."""
    kinds = st.sampled_from(["updated", "updated", "updated", "trial_will_end", "paused", "resumed"])
    walk = data.draw(st.lists(st.tuples(st.integers(0, 2), kinds, STATES), min_size=1, max_size=7))
    changes: list[Change] = [
        (second, kind, state if kind == "updated" else {})
        for second, kind, state in sorted(walk, key=lambda each: each[0])
    ]
    events = happened([(0, "created", {"status": "incomplete"}), *changes], data.draw(st.integers(0, 1000)))
    assert end(fold(data.draw(st.permutations(events)))) == end(fold(events))
    assert end(fold(events))[0] == events[-1].subscription


@settings(deadline=None)
@given(st.data())
def test_a_second_pass_changes_nothing(data: st.DataObject) -> None:
    events = happened(data.draw(st.sampled_from([each for each in HISTORIES.values() if len(each) < 5])))
    facts = fold(events)
    for event in data.draw(st.permutations(events)):
        result = reduce(facts, event)
        assert isinstance(result, Stale) or end(result.facts) == end(facts)  # type: ignore[union-attr]


def test_of_random_ids_none_is_wrong() -> None:
    """`python -m benchmarks.same_second` does so with 10,000 pairs."""
    chance = random.Random(1)
    for _ in range(300):
        assert known(fold(parsed(history(CHECKOUT, chance)))).subscription.status == "active"


def test_what_no_body_decides_is_decided_by_the_first_receipt() -> None:
    """Two events without previous attributes: the one exception to the end being the same for every order."""
    pair = happened([(0, "paused", {"status": "paused"}), (0, "resumed", {"status": "active"})])
    for order in (pair, pair[::-1]):
        assert known(fold(order)).subscription == order[-1].subscription
        # A retry of the first keeps the time of its first receipt.
        first, second = (received(NOTHING, event, (NOW + at) * S) for at, event in enumerate(order))
        again = fold([], _reduced(_reduced(NOTHING, second), first))
        assert known(again).subscription == order[-1].subscription


def _reduced(facts: Facts, event: Event) -> Facts:
    result = reduce(facts, event)
    assert isinstance(result, Reduced)
    return result.facts


def test_previous_attributes_that_lack_a_changed_field_still_chain() -> None:
    """Nothing lists the invoice as changed, but the statuses show the order."""
    events = history(
        [*CHECKOUT, (0, "updated", {"status": "past_due"}), (0, "updated", {"status": "active"})], random.Random(2)
    )
    for number, event in enumerate(events):
        event["data"]["object"] = {**event["data"]["object"], "latest_invoice": f"in_{number}"}
    for order in itertools.permutations(parsed(events[:3])):
        assert known(fold(order)).subscription.status == "past_due"


def test_previous_attributes_that_show_a_part_of_an_item_still_chain() -> None:
    changes: list[Change] = [(0, "updated", {"items": items(("price_pro", number))}) for number in (5, 2, 9)]
    events = history([(0, "created", {}), *changes], random.Random(3))
    for event in events[1:]:
        (entry,) = event["data"]["previous_attributes"]["items"]["data"]
        event["data"]["previous_attributes"]["items"]["data"] = [{"id": entry["id"], "quantity": entry["quantity"]}]
    for order in itertools.permutations(parsed(events)):
        assert known(fold(order)).subscription.items == (Item("price_pro", 9),)


def test_an_event_that_is_missing_leaves_the_newest_of_the_others() -> None:
    created, _, failed, over = happened(
        [*CHECKOUT, (0, "updated", {"status": "past_due"}), (0, "updated", {"cancel_at_period_end": True})]
    )
    for order in itertools.permutations([created, failed, over]):
        assert known(fold(order)).subscription == over.subscription


def test_a_late_event_that_is_not_the_newest_says_why() -> None:
    created, updated = happened(CHECKOUT)
    result = reduce(fold([updated]), created)
    assert isinstance(result, Reduced)
    assert result.stale == f"older than {updated.event_id}"
    assert reduce(result.facts, created) == Stale(f"older than {updated.event_id}")


def test_events_of_one_instant_are_bounded() -> None:
    storm: list[Change] = [
        (0, "updated", {"items": items(("price_pro", number))}) for number in range(1, 3 * INSTANT_EVENTS_MAX)
    ]
    facts = fold(happened([(0, "created", {}), *storm]))
    assert len(known(facts).recent) == INSTANT_EVENTS_MAX
    assert known(facts).subscription.items[0].quantity == 3 * INSTANT_EVENTS_MAX - 1


def test_only_the_newest_instant_keeps_bodies() -> None:
    days: list[Change] = [(86_400 * day, "updated", {"latest_invoice": f"in_{day}"}) for day in range(2, 30)]
    events = happened([*CHECKOUT, *days])
    facts = fold(events)
    assert [each.body == events[-1].subscription for each in known(facts).recent] == [False, False, True]
    assert [each.body.period is None for each in known(facts).recent] == [True, True, False]


class TestOlderBuilds:
    """Facts that a build without steps has stored."""

    def stored(self, status: str = "incomplete") -> tuple[Facts, list[Event]]:
        events = happened([(0, "created", {"status": status}), (0, "updated", {"status": "active"})])
        first = replace(events[0], step=None)
        result = reduce(NOTHING, first)
        assert isinstance(result, Reduced)
        assert b"recent" not in codec.encode(result.facts)
        return codec.decode(codec.encode(result.facts)), events

    def test_an_event_of_the_same_second_is_newer_than_the_stored(self) -> None:
        facts, (_, updated) = self.stored()
        assert known(fold([updated], facts)).subscription.status == "active"

    def test_an_end_stays_the_end(self) -> None:
        facts, (_, updated) = self.stored("canceled")
        assert known(fold([updated], facts)).subscription.status == "canceled"

    def test_an_older_event_stays_older(self) -> None:
        facts, _ = self.stored("active")
        late = happened([(-5, "updated", {"status": "past_due"})])
        assert known(fold(late, facts)).subscription.status == "active"


class TestFetched:
    """The provider's answers among events of one second."""

    def test_an_answer_is_newer_than_the_events_before_it(self) -> None:
        created, updated = happened(CHECKOUT)
        answer = fetched(body(status="active"), "live", NOW * S + 400_000_000)
        merged = merge_fetched(fold([created]), answer, confirms=True)
        assert isinstance(merged, Reduced)
        late = reduce(merged.facts, updated)
        assert isinstance(late, Reduced)
        assert late.stale
        assert known(late.facts).subscription.status == "active"

    def test_an_answer_that_is_overtaken_changes_nothing(self) -> None:
        (event,) = happened([(1, "updated", {"status": "past_due"})])
        facts = fold([event])
        answer = fetched(body(status="active"), "live", NOW * S + 400_000_000)
        assert merge_fetched(facts, answer) == Stale(f"older than {event.event_id}")

    @settings(deadline=None)
    @given(st.data())
    def test_answers_in_the_seconds_of_the_events_change_no_end(self, data: st.DataObject) -> None:
        """Events are late, the provider answers some of their requests only, and with another API version's fields."""
        walk = data.draw(st.lists(st.tuples(st.integers(0, 1), STATES), min_size=1, max_size=5))
        walk.sort(key=lambda each: each[0])
        shown = history(
            [(0, "created", {}), *[(second, "updated", state) for second, state in walk]],
            random.Random(data.draw(st.integers(0, 1000))),
        )
        events = parsed(shown)
        # Within its second, an event happens after the one before, and then arrives late.
        draws = st.tuples(st.integers(0, S - 1), st.integers(1, 2 * S))
        fractions, delays = zip(*[data.draw(draws) for _ in events], strict=True)
        seconds = [each.order.occurred_ns for each in events]
        happened_ns = sorted(at_ns + ns for at_ns, ns in zip(seconds, sorted(fractions), strict=True))
        arrives_ns = [at_ns + ns for at_ns, ns in zip(happened_ns, delays, strict=True)]
        arrivals = sorted((at_ns, number) for number, at_ns in enumerate(arrives_ns))
        facts = NOTHING
        for now_ns, number in arrivals:
            result = reduce(facts, received(facts, events[number], now_ns))
            is_new = isinstance(result, Reduced)
            facts = result.facts if isinstance(result, Reduced) else facts
            if data.draw(st.booleans()):
                now = shown[sum(at <= now_ns for at in happened_ns) - 1]["data"]["object"]
                merged = merge_fetched(facts, fetched({**now, "newer_field": 1}, "live", now_ns), confirms=is_new)
                facts = merged.facts if isinstance(merged, Reduced) else facts
        assert known(facts).subscription == events[-1].subscription

    def test_an_end_in_the_second_of_an_answer_counts_though_it_cannot_be_fetched(self) -> None:
        created, ended = happened([(0, "created", {}), (0, "deleted", {"status": "canceled"})])
        answer = fetched(body(status="active"), "live", NOW * S + 600_000_000)
        merged = merge_fetched(fold([created]), answer, confirms=True)
        assert isinstance(merged, Reduced)
        assert known(fold([ended], merged.facts)).subscription.status == "canceled"

    def test_what_no_body_decides_is_as_fetched(self) -> None:
        """In either order of arrival. An answer that confirms what is known counts, too."""
        older, newer = happened([(0, "paused", {"status": "paused"}), (0, "resumed", {"status": "active"})])
        answer = fetched(body(items=items(("price_pro", 1)), status="active"), "live", NOW * S + 400_000_000)
        for first, second in ((older, newer), (newer, older)):
            merged = merge_fetched(fold([first]), answer, confirms=True)
            assert isinstance(merged, Reduced)
            assert known(fold([second], merged.facts)).subscription.status == "active"


AHEAD = ((40, "trialing"), (41, "past_due"), (0, "active"))


class TestFuture:
    """Events from a test clock, or of a wrong clock."""

    @pytest.mark.parametrize("ahead_s", [3600, 40 * 86_400])
    def test_a_real_event_that_follows_is_not_shut_out(self, ahead_s: int) -> None:
        ahead, real = happened([(ahead_s, "updated", {"status": "past_due"}), (0, "updated", {"status": "active"})])
        facts = fold([ahead], received_s=NOW - 30)
        assert known(facts).past_due_since_ns == (NOW - 30) * S
        assert known(fold([real], facts)).subscription.status == "active"

    def test_a_test_clock_that_advances_is_followed(self) -> None:
        month = 30 * 86_400
        events = happened(
            [*CHECKOUT, (month, "updated", {"status": "past_due"}), (month + 3600, "updated", {"status": "active"})]
        )
        facts = NOTHING
        for number, event in enumerate(events):
            facts = fold([event], facts, received_s=NOW + number)
            assert known(facts).subscription == event.subscription

    @pytest.mark.parametrize("name", sorted(HISTORIES.keys() - {"there and back"}))
    def test_what_the_test_clock_says_counts_in_any_order_of_arrival(self, name: str) -> None:
        """Also after a real event, and what happened in one of its seconds.

        Where a second ends in the state in which it began, the seconds before must have arrived in order.
        """
        events = happened(HISTORIES[name])
        before = fold(happened([(-9 * 86_400, "updated", {"status": "paused"})]), received_s=NOW - 8 * 86_400)
        for facts in (NOTHING, before):
            for order in itertools.permutations(events):
                found = known(fold(order, facts, received_s=NOW - 7 * 86_400))
                assert found.subscription == events[-1].subscription
                assert found.ahead is not None

    def test_late_events_of_the_test_clock_do_not_go_before_a_real_one(self) -> None:
        first, second, real = happened([(day * 86_400, "updated", {"status": status}) for day, status in AHEAD])
        facts = fold([real], fold([second], received_s=NOW), received_s=NOW + 20)
        assert known(fold([first], facts, received_s=NOW + 30)).subscription.status == "active"

    def test_a_clock_that_is_a_little_ahead_keeps_its_times(self) -> None:
        (event,) = happened([(0, "updated", {})])
        assert received(NOTHING, event, (NOW - 299) * S).order == event.order


class TestLast:
    """The rule alone, on steps without bodies."""

    def seen(self, number: int, before: str, after: str, kind: Kind = Kind.CHANGE) -> Seen:
        step = Step(kind, (before,) if before else (), (after,) if after else ())
        return Seen(Order(1, 1, f"evt_{number}"), step, number, Subscription("sub_1", "active", ()))

    def decided(self, seen: Sequence[Seen], anchor: tuple[str, ...] = ()) -> set[str]:
        return {last(order, anchor).order.event_id for order in itertools.permutations(seen)}

    def test_a_path_ends_where_more_steps_lead_than_leave(self) -> None:
        assert self.decided([self.seen(3, "a", "b"), self.seen(2, "b", "c"), self.seen(1, "c", "a")], ("a",)) == {
            "evt_1"
        }
        assert self.decided([self.seen(3, "a", "b"), self.seen(1, "b", "c")]) == {"evt_1"}

    def test_a_circle_ends_where_it_began(self) -> None:
        circle = [self.seen(3, "a", "b"), self.seen(1, "b", "a")]
        assert self.decided(circle, ("a",)) == {"evt_1"}
        assert self.decided(circle, ("b",)) == {"evt_3"}
        assert self.decided(circle) == {"evt_3"}, "the start is not known: the latest receipt"

    def test_creation_is_first_and_end_is_last(self) -> None:
        created = self.seen(9, "", "a", Kind.CREATION)
        ended = self.seen(1, "", "z", Kind.END)
        assert self.decided([created, self.seen(2, "", "b")]) == {"evt_2"}
        assert self.decided([created, self.seen(2, "", "b"), ended]) == {"evt_1"}

    def test_an_event_that_tells_nothing_may_be_the_last(self) -> None:
        assert self.decided([self.seen(1, "a", "b"), self.seen(2, "", "")]) == {"evt_2"}
        assert self.decided([self.seen(2, "a", "b"), self.seen(1, "", "")]) == {"evt_2"}
