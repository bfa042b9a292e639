"""Reduction ends the same in whatever order, and however often, a history's events arrive."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import project
from sync.billing.domain.facts import codec, instructions, model
from sync.billing.domain.facts.model import FETCHED, NOTHING, Event, Facts, Item, Order
from sync.billing.domain.facts.order import CLOCK_SLACK_NS, PAST_DUE_MARKS_MAX
from sync.billing.domain.facts.reducer import (
    ASKED_SINCE,
    SUBSCRIPTIONS_MAX,
    Reduced,
    Stale,
    Unusable,
    merge_fetched,
    reduce,
)
from tests.support.histories import BASIC, CATALOG, DAY_NS, PRO, START_NS, arrivals, at, event, histories


def fold(events: Iterable[Event], facts: Facts = NOTHING) -> Facts:
    for each in events:
        result = reduce(facts, each)
        if isinstance(result, Reduced):
            facts = result.facts
    return facts


def subscription(facts: Facts, id: str = "sub_1") -> model.SubscriptionFacts:
    return facts.subscriptions[f"paddle:{id}"]


@given(st.data())
def test_any_permutation_and_duplication_ends_in_the_same_facts_and_state(data: st.DataObject) -> None:
    events = data.draw(histories())
    first = fold(data.draw(arrivals(events)))
    second = fold(data.draw(arrivals(events)))
    assert first == second
    assert codec.encode(first) == codec.encode(second)
    setting = Setting(CATALOG, "live", (), START_NS + data.draw(st.integers(0, 30)) * DAY_NS)
    assert project(first, setting) == project(second, setting)


@given(histories())
def test_the_end_is_what_sorting_the_whole_history_says(events: list[Event]) -> None:
    """An oracle that sees everything at once: the newest body; grace from the earliest of the last past_due run."""
    facts = fold(events)
    for key in {each.subscription_id for each in events}:
        own = sorted((e for e in events if e.subscription_id == key), key=lambda e: e.order)
        known = subscription(facts, str(key))
        assert known.subscription == own[-1].subscription
        run: list[Event] = []
        for each in reversed(own):
            assert each.subscription is not None
            if each.subscription.status != "past_due":
                break
            run.append(each)
        since_ns = min((each.order.occurred_ns for each in run), default=None)
        assert known.past_due_since_ns == since_ns


@given(st.data())
def test_a_second_pass_of_a_history_changes_nothing(data: st.DataObject) -> None:
    events = data.draw(histories())
    facts = fold(events)
    for each in data.draw(st.permutations(events)):
        assert isinstance(reduce(facts, each), Stale)


@given(histories())
def test_facts_survive_encoding(events: list[Event]) -> None:
    facts = fold(events)
    assert codec.decode(codec.encode(facts)) == facts


def test_s03_updated_before_created() -> None:
    updated = event("active", 1, updated=1)
    created = event("active", 0, BASIC, kind="subscription.created")
    facts = fold([updated])
    older = f"older than {updated.event_id}"
    result = reduce(facts, created)
    assert isinstance(result, Reduced)
    assert (result.stale, subscription(result.facts).subscription) == (older, updated.subscription)
    assert reduce(result.facts, created) == Stale(older)


def test_s04_older_active_after_canceled_is_refused_with_a_reason() -> None:
    canceled, older = event("canceled", 2), event("active", 1)
    facts = fold([canceled, older])
    assert reduce(facts, older) == Stale(f"older than {canceled.event_id}")
    assert subscription(facts).subscription.status == "canceled"


@pytest.mark.parametrize("reverse", [False, True])
def test_s05_s06_ties_are_broken_by_occurred_at_then_id(reverse: bool) -> None:
    same_updated = [event("active", 3, updated=2, id="evt_z"), event("past_due", 4, updated=2, id="evt_a")]
    assert subscription(fold(same_updated[:: -1 if reverse else 1])).subscription.status == "past_due"
    same_time = [event("active", 3, updated=2, id="evt_b"), event("past_due", 3, updated=2, id="evt_a")]
    assert subscription(fold(same_time[:: -1 if reverse else 1])).subscription.status == "active"


def test_s07_later_event_with_an_older_body_does_not_replace_the_newer() -> None:
    newer = event("canceled", 2, updated=2)
    older_body = event("active", 2.1, updated=1)
    assert subscription(fold([newer, older_body])).subscription.status == "canceled"


def test_s08_a_moved_clock_does_not_refuse_later_events_for_ever() -> None:
    ahead = event("active", 1, updated=500)
    after = event("canceled", 2, updated=2)
    assert subscription(fold([ahead, after])).subscription.status == "canceled"
    assert subscription(fold([after, ahead])).subscription.status == "canceled"


@pytest.mark.parametrize(("ahead_ns", "kept"), [(CLOCK_SLACK_NS, True), (CLOCK_SLACK_NS + 1, False)])
def test_updated_at_counts_up_to_the_slack_ahead_of_occurred_at(ahead_ns: int, kept: bool) -> None:
    order = Order.of(START_NS + ahead_ns, START_NS, "evt")
    assert order.updated_ns == START_NS + (ahead_ns if kept else 0)


def test_past_due_since_is_the_earliest_of_the_run_however_it_arrives() -> None:
    first, second = event("past_due", 3), event("past_due", 4)
    before, between = event("active", 1), event("active", 3.5)
    assert subscription(fold([second, before])).past_due_since_ns == at(4)
    assert subscription(fold([second, before, first])).past_due_since_ns == at(3)
    assert subscription(fold([second, before, first, between])).past_due_since_ns == at(4)
    assert subscription(fold([second, between, first])).past_due_since_ns == at(4)
    assert subscription(fold([first, second, event("active", 5)])).past_due_since_ns is None


def test_marks_of_one_run_are_bounded_and_keep_its_start() -> None:
    run = [event("past_due", 1 + number / 100) for number in range(PAST_DUE_MARKS_MAX + 20)]
    for events in (run, run[::-1]):
        known = subscription(fold(events))
        assert len(known.past_due) == PAST_DUE_MARKS_MAX
        assert known.past_due_since_ns == at(1)
    late = event("active", 1 + (PAST_DUE_MARKS_MAX + 5) / 100 + 0.001)
    known = subscription(fold([late], fold(run)))
    assert known.past_due == ()
    assert known.past_due_since_ns == run[-1].order.occurred_ns


def test_s34_unknown_status_and_action_hold_the_last_good_state() -> None:
    facts = fold([event("active", 1)])
    assert reduce(facts, event("inactive", 2)) == Unusable("unknown status 'inactive'")
    assert reduce(facts, event("active", 2, scheduled=("explode", 3))) == Unusable("unknown scheduled action 'explode'")
    assert isinstance(reduce(facts, event("inactive", 0.5)), Stale)
    assert reduce(NOTHING, event("inactive", 2)) == Unusable("unknown status 'inactive'")


def test_an_event_without_a_body_is_refused() -> None:
    thin = Event("paddle", "live", "evt_1", "subscription.updated", Order.of(None, 1, "evt_1"))
    assert reduce(NOTHING, thin) == Stale("the event carries no subscription")


def test_subscriptions_per_tenant_are_bounded() -> None:
    facts = fold(event("canceled", 1, id=f"evt_{n}", subscription=f"sub_{n}") for n in range(SUBSCRIPTIONS_MAX))
    assert len(facts.subscriptions) == SUBSCRIPTIONS_MAX
    assert isinstance(reduce(facts, event("active", 2, subscription="sub_new")), Unusable)
    assert isinstance(reduce(facts, event("active", 2, PRO, subscription="sub_0")), Reduced)


@pytest.mark.parametrize("private", [b"[]", b'{"format":1}', b'{"format":2,"subscriptions":{}}', b"{", b"null"])
def test_decode_refuses_what_encode_did_not_write(private: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.decode(private)


def test_decode_of_nothing_is_nothing() -> None:
    assert codec.decode(b"") == NOTHING


def test_held_change_and_overrides_survive_encoding() -> None:
    facts = Facts(
        {},
        (
            instructions.ScheduledPlanChange("paddle:sub_1", "basic", at(3), PRO),
            instructions.ScheduledPlanChange("paddle:sub_2", "mail", at(4), PRO, app="mail"),
        ),
        (
            instructions.Override("feature", "sso", True, "trial of SSO", at(9)),
            instructions.Override("limit", "seats", None, "abuse", by="eve"),
            instructions.Override(instructions.PLAN, "pro", 3, "reverse trial", at(9), trial=True),
        ),
    )
    assert codec.decode(codec.encode(facts)) == facts


def test_older_builds_do_not_see_granted_plans() -> None:
    facts = Facts(
        overrides=(
            instructions.Override("feature", "sso", True, "x"),
            instructions.Override(instructions.PLAN, "pro", True, "x"),
        )
    )
    assert [entry["kind"] for entry in json.loads(codec.encode(facts))["overrides"]] == ["feature"]


class TestFetched:
    """Bodies that the provider answered, joined with what events told."""

    def fetched(self, status: str, began: float, updated: float, items: tuple[Item, ...] = PRO) -> Event:
        made = event(status, began, items, updated=updated)
        return replace(made, type=FETCHED, order=Order.fetched(at(updated), at(began)))

    def known(self, *events: Event) -> Facts:
        facts = NOTHING
        for entry in events:
            result = reduce(facts, entry)
            if isinstance(result, Reduced):
                facts = result.facts
        return facts

    def status(self, facts: Facts) -> str:
        return facts.subscriptions["paddle:sub_1"].subscription.status

    def test_of_one_stamp_the_fetched_is_newer(self) -> None:
        facts = self.known(event("active", 1))
        result = merge_fetched(facts, self.fetched("past_due", 1.00001, 1))
        assert isinstance(result, Reduced)
        assert self.status(result.facts) == "past_due"
        # The event that told it comes after, and changes nothing but when the grace began.
        late = reduce(result.facts, event("past_due", 1.000005, updated=1))
        assert isinstance(late, Reduced)
        assert late.facts.subscriptions["paddle:sub_1"].past_due_since_ns == at(1.000005)

    def test_an_event_that_the_answer_holds_already_says_so(self) -> None:
        result = merge_fetched(NOTHING, self.fetched("active", 1, 1.5))
        assert isinstance(result, Reduced)
        assert reduce(result.facts, event("active", 1, updated=1)) == Stale(ASKED_SINCE)

    def test_what_is_known_changes_nothing(self) -> None:
        facts = self.known(event("active", 1))
        assert isinstance(merge_fetched(facts, self.fetched("active", 2, 1)), Stale)
        # Changed and changed back: older events that come now must not win.
        assert isinstance(merge_fetched(facts, self.fetched("active", 2, 1.5)), Reduced)

    def test_an_answer_older_than_a_fresh_event_is_refused(self) -> None:
        facts = self.known(event("active", 1, BASIC))
        assert isinstance(merge_fetched(facts, self.fetched("active", 1.0001, 0.5)), Stale)

    def test_after_a_minute_the_fetch_decides_whatever_the_stamps_say(self) -> None:
        facts = self.known(event("active", 1, BASIC))
        result = merge_fetched(facts, self.fetched("active", 1 + 61 / 86_400, 0.5))
        assert isinstance(result, Reduced)
        assert result.facts.subscriptions["paddle:sub_1"].subscription.items == PRO
        assert isinstance(merge_fetched(facts, self.fetched("active", 1 + 59 / 86_400, 0.5)), Stale)

    def test_fewer_digits_of_the_same_instant_are_not_older(self) -> None:
        nine = replace(event("active", 1, BASIC), order=Order.of(at(1) + 645_134_123, at(1) + 645_134_123, "evt_1"))
        facts = self.known(nine)
        six = replace(self.fetched("active", 1, 1), order=Order.fetched(at(1) + 645_134_000, at(1) + 700_000_000))
        assert isinstance(merge_fetched(facts, six), Reduced)

    @given(st.data())
    def test_fetches_and_events_end_the_same_in_any_order(self, data: st.DataObject) -> None:
        """Where all occur within a minute, so that stamps alone decide."""
        moments = st.integers(0, 50).map(lambda second: 1 + second / 86_400)
        choices = st.tuples(st.sampled_from(["active", "past_due", "canceled"]), moments, st.booleans())
        drawn = data.draw(st.lists(choices, min_size=1, max_size=6, unique_by=lambda choice: choice[1]))
        made = [
            self.fetched(status, moment, moment) if asked else event(status, moment) for status, moment, asked in drawn
        ]

        def end(order: Sequence[Event]) -> str:
            facts = NOTHING
            for entry in order:
                result = merge_fetched(facts, entry) if entry.type == FETCHED else reduce(facts, entry)
                facts = result.facts if isinstance(result, Reduced) else facts
            return self.status(facts)

        assert end(data.draw(st.permutations(made))) == end(made)
