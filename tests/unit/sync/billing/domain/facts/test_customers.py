"""A second customer's subscription adds to a tenant's plan and never worsens it, in whatever order events arrive."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog.catalog import LEVELS, Catalog, Policy
from sync.billing.domain.decision import Decided, Delivery, Tenant, decide, decide_without_event
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, leader, project
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.customers import own_customers, second_customers
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.domain.facts.reducer import SECOND_CUSTOMERS_MAX, Reduced, Stale, Unusable, merge_fetched, reduce
from sync.billing.domain.outcome import WAITS_CATALOG, EventResult, Outcome
from tests.support.histories import BASIC, CATALOG, PRO, START_NS, arrivals, at, event, histories, of_customers

TEAM = (Item("pri_team", 1),)
AUDIT = (Item("pri_audit", 1),)
PARK = replace(CATALOG, policy=Policy(second_customer="park"))
NOW = Setting(CATALOG, "live", (), at(10))


def bought(customer: str, status: str, occurred: float, items: Iterable[Item] = PRO, **fields: Any) -> Event:
    """An event of the subscription that a customer made a day before its first event."""
    created = fields.pop("created", occurred - 1)
    made = event(status, occurred, tuple(items), subscription=fields.pop("subscription", f"sub_{customer}"), **fields)
    assert made.subscription is not None
    body = replace(made.subscription, customer_id=customer, created_ns=None if created is None else at(created))
    return replace(made, customer_id=customer, subscription=body)


def fold(events: Iterable[Event]) -> Facts:
    facts = NOTHING
    for each in events:
        result = reduce(facts, each)
        facts = result.facts if isinstance(result, Reduced) else facts
    return facts


def of_older_build(facts: Facts) -> Facts:
    """Return the facts as builds stored them that did not know the time of creation."""
    return replace(
        facts, subscriptions={key: replace(entry, created_ns=None) for key, entry in facts.subscriptions.items()}
    )


def state_of(*events: Event, catalog: Catalog = CATALOG) -> dict[str, Any]:
    result = project(fold(events), NOW._replace(catalog=catalog))
    assert isinstance(result, Projected)
    return result.state


OWN = bought("own", "active", 1, BASIC)


class TestWhoIsSecond:
    def test_the_customer_of_the_subscription_that_was_created_first_is_the_tenant_s_own(self) -> None:
        late = bought("other", "active", 5, created=4)
        for events in ([OWN, late], [late, OWN]):
            facts = fold(events)
            assert own_customers(facts) == {("paddle", "own")}
            assert second_customers(facts) == {"paddle:sub_other"}

    def test_one_customer_has_as_many_subscriptions_as_it_likes(self) -> None:
        assert second_customers(fold([OWN, bought("own", "active", 3, subscription="sub_more")])) == set()

    def test_a_body_without_a_customer_is_nobody_else_s(self) -> None:
        without = bought("other", "active", 3)
        assert without.subscription is not None
        without = replace(without, subscription=replace(without.subscription, customer_id=None))
        assert second_customers(fold([OWN, without])) == set()

    def test_the_earliest_time_of_creation_counts_whatever_a_later_body_says(self) -> None:
        first, later = bought("own", "active", 1, created=0), bought("own", "active", 8, created=7)
        other = bought("other", "active", 5, created=4)
        for events in ([first, later, other], [later, first, other], [other, later, first]):
            assert second_customers(fold(events)) == {"paddle:sub_other"}

    def test_without_a_time_of_creation_the_customer_of_the_first_event_is_the_tenant_s_own(self) -> None:
        own, other = bought("own", "active", 1, created=None), bought("other", "active", 5, created=None)
        events = own, other, bought("own", "past_due", 9, created=None), bought("third", "active", 9, created=6)
        for order in itertools.permutations(events):
            assert second_customers(fold(order)) == {"paddle:sub_other", "paddle:sub_third"}

    def test_facts_of_older_builds_are_as_old_as_can_be(self) -> None:
        stored = codec.encode(of_older_build(fold([bought("own", "active", 6)])))
        assert b"created_ns" not in stored
        facts = codec.decode(stored)
        again = reduce(facts, bought("own", "active", 6.5, created=None))
        assert isinstance(again, Reduced)
        assert again.facts.subscriptions["paddle:sub_own"].created_ns is None
        result = reduce(facts, bought("other", "active", 5))
        assert isinstance(result, Reduced)
        assert second_customers(result.facts) == {"paddle:sub_other"}
        dated = reduce(result.facts, bought("own", "active", 7, created=4.5))
        assert isinstance(dated, Reduced)
        assert second_customers(dated.facts) == {"paddle:sub_own"}

    def test_a_fetch_brings_the_time_of_creation_that_older_builds_did_not_store(self) -> None:
        old = bought("own", "active", 6, created=None)
        fetched = bought("own", "active", 6, created=2)
        for facts in (of_older_build(fold([old])), fold([old])):
            result = merge_fetched(facts, fetched)
            assert isinstance(result, Reduced)
            assert result.facts.subscriptions["paddle:sub_own"].created_ns == at(2)
            assert isinstance(merge_fetched(result.facts, fetched), Stale)

    def test_a_signed_reference_makes_its_customer_the_tenant_s_own(self) -> None:
        signed = replace(bought("other", "past_due", 9), is_signed=True)
        unsigned = bought("other", "active", 5)
        for events in ([OWN, signed], [signed, OWN], [OWN, unsigned, signed], [OWN, signed, unsigned]):
            facts = fold(events)
            assert second_customers(facts) == set()
            assert codec.decode(codec.encode(facts)) == facts

    def test_strangers_cannot_use_up_the_tenant_s_subscriptions(self) -> None:
        strangers = [
            bought("other", "canceled", 5, subscription=f"sub_{number}") for number in range(SECOND_CUSTOMERS_MAX)
        ]
        facts = fold([OWN, *strangers])
        assert len(facts.subscriptions) == SECOND_CUSTOMERS_MAX + 1
        more = bought("other", "active", 6, subscription="sub_more")
        assert isinstance(reduce(facts, more), Unusable)
        assert isinstance(reduce(facts, replace(more, is_signed=True)), Reduced)
        assert isinstance(reduce(facts, bought("own", "active", 6, subscription="sub_more")), Reduced)


class TestWhatIsShown:
    @pytest.mark.parametrize("status", ["past_due", "paused", "canceled"])
    def test_what_is_not_paid_counts_for_nothing(self, status: str) -> None:
        assert state_of(OWN, bought("other", status, 9)) == state_of(OWN)

    def test_a_higher_plan_is_added_and_the_own_customer_s_status_stays(self) -> None:
        own = bought("own", "trialing", 1, BASIC, trial_ends=20, period=(1, 20))
        state = state_of(own, bought("other", "active", 5, PRO, scheduled=("cancel", 15), period=(5, 35)))
        assert (state["plan"]["key"], state["status"]) == ("pro", "trialing")
        assert state["limits"] == {"seats": 3, "projects": "unlimited"}
        assert state["features"] == {"basic": True, "export": True, "sso": True}
        assert "scheduled" not in state
        assert state["trial_ends_at"] == "2026-11-21T00:00:00Z"

    def test_a_higher_plan_of_fewer_units_takes_no_units_away(self) -> None:
        own = bought("own", "active", 1, (Item("pri_team", 9),))
        state = state_of(own, bought("other", "active", 5, (Item("pri_pro", 1),)))
        assert (state["plan"]["key"], state["limits"]["seats"]) == ("team", 45)

    def test_payment_that_failed_is_shown_though_another_customer_pays(self) -> None:
        state = state_of(OWN, bought("own", "past_due", 8, BASIC), bought("other", "active", 5))
        assert (state["plan"]["key"], state["status"], "grace_ends_at" in state) == ("pro", "past_due", True)

    @pytest.mark.parametrize("ended", ["canceled", "paused"])
    def test_after_the_own_customer_s_subscription_another_s_leads(self, ended: str) -> None:
        events = OWN, bought("own", ended, 3, BASIC), bought("other", "active", 5, period=(5, 35))
        state = state_of(*events)
        assert (state["plan"]["key"], state["status"], "period" in state) == ("pro", "active", True)
        assert leader(fold(events), NOW) == "paddle:sub_other"
        after = state_of(*events, bought("other", "past_due", 9))
        assert (after["plan"]["key"], after["status"]) == ("free", ended)

    def test_add_ons_are_added(self) -> None:
        state = state_of(OWN, bought("other", "active", 5, AUDIT))
        assert (state["plan"]["key"], state["features"].get("audit"), state["status"]) == ("basic", True, "active")

    def test_an_unknown_price_of_another_customer_holds_nothing_back(self) -> None:
        assert state_of(OWN, bought("other", "active", 5, (Item("pri_unknown", 1),))) == state_of(OWN)

    def test_the_policy_park_lets_none_count(self) -> None:
        assert state_of(bought("other", "active", 5), OWN, catalog=PARK) == state_of(OWN)


class TestDecision:
    def test_it_is_reported_once_and_every_event_says_so(self) -> None:
        first = decide(Tenant("tenant:acme", fold([OWN])), Delivery(bought("other", "active", 5)), NOW)
        assert isinstance(first, Decided)
        assert first.note == "customer other of paddle:sub_other is another than the tenant's own, own"
        (drift,) = first.drifts
        assert (drift.kind, drift.subject, drift.here) == (
            "second_customer", "paddle:sub_other", {"customer_ids": ["own"]},
        )  # fmt: skip
        assert drift.there == {"customer_id": "other", "status": "active"}
        second = decide(Tenant("tenant:acme", first.facts), Delivery(bought("other", "past_due", 8)), NOW)
        assert isinstance(second, Decided)
        assert (second.note, second.drifts) == (first.note, ())

    def test_a_stranger_that_came_first_is_reported_when_the_own_customer_comes(self) -> None:
        decided = decide(Tenant("tenant:acme", fold([bought("other", "active", 5)])), Delivery(OWN), NOW)
        assert isinstance(decided, Decided)
        assert ([drift.subject for drift in decided.drifts], decided.note) == (["paddle:sub_other"], "")

    def test_the_policy_parks_what_is_new_until_it_is_linked_or_accepted(self) -> None:
        parking = NOW._replace(catalog=PARK)
        result = decide(Tenant("tenant:acme", fold([OWN])), Delivery(bought("other", "active", 5)), parking)
        assert isinstance(result, EventResult)
        waits = "subscription:paddle:sub_other", "customer:paddle:other", WAITS_CATALOG
        assert (result.outcome, result.waits) == (Outcome.PARKED, waits)
        assert "customer other" in result.reason
        assert "planwire link" in result.reason
        signed = decide(
            Tenant("tenant:acme", fold([OWN])), Delivery(replace(bought("other", "active", 5), is_signed=True)), parking
        )
        assert isinstance(signed, Decided)
        assert signed.state["plan"]["key"] == "pro"

    def test_the_policy_parks_no_end_of_what_is_held(self) -> None:
        held = fold([OWN, bought("other", "active", 5)])
        decided = decide(
            Tenant("tenant:acme", held), Delivery(bought("other", "canceled", 8)), NOW._replace(catalog=PARK)
        )
        assert isinstance(decided, Decided)

    def test_the_policy_parks_what_a_provider_lists(self) -> None:
        fetched = bought("other", "active", 5)
        parking = NOW._replace(catalog=PARK)
        decided = decide_without_event(
            Tenant("tenant:acme", fold([OWN]), True), [fetched], lambda facts: facts, parking
        )
        assert isinstance(decided, Decided)
        assert (decided.facts, decided.state) == (fold([OWN]), state_of(OWN))
        assert "planwire link" in decided.note


def _least(own: dict[str, Any], both: dict[str, Any]) -> bool:
    """Whether `both` has all of `own`, or more."""

    def amount(limit: Any) -> float:
        return inf if limit == "unlimited" else float(limit)

    return (
        both["plan"]["rank"] >= own["plan"]["rank"]
        and own["features"].items() <= both["features"].items()
        and all(amount(both["limits"].get(name, -1)) >= amount(limit) for name, limit in own["limits"].items())
        and all(
            LEVELS.index(both["modules"][name]) >= LEVELS.index(level) if name in both["modules"] else False
            for name, level in own["modules"].items()
        )
    )


@given(st.data())
def test_any_order_of_two_customers_events_ends_alike(data: st.DataObject) -> None:
    events = data.draw(of_customers(("own", "other", "third")))
    first, second = fold(data.draw(arrivals(events))), fold(data.draw(arrivals(events)))
    assert codec.encode(first) == codec.encode(second)
    for catalog in (CATALOG, PARK):
        setting = Setting(catalog, "live", (), START_NS + data.draw(st.integers(0, 30)) * 86_400 * 10**9)
        assert project(first, setting) == project(second, setting)


@given(st.data())
def test_another_customer_never_worsens_what_the_own_customer_pays_for(data: st.DataObject) -> None:
    events = data.draw(of_customers(("own", "other", "third")))
    facts = fold(events)
    second = second_customers(facts)
    own = replace(facts, subscriptions={key: one for key, one in facts.subscriptions.items() if key not in second})
    setting = NOW._replace(now_ns=START_NS + data.draw(st.integers(0, 30)) * 86_400 * 10**9)
    alone, both = project(own, setting), project(facts, setting)
    assert isinstance(alone, Projected)
    assert isinstance(both, Projected)
    assert _least(alone.state, both.state)
    fields = ("status", "scheduled", "pending", "grace_ends_at", "period", "trial_ends_at")
    if leader(own, setting) == leader(facts, setting):
        assert {name: alone.state.get(name) for name in fields} == {name: both.state.get(name) for name in fields}
    else:
        assert both.state["status"] in ("active", "trialing")
    assert project(facts, setting._replace(catalog=PARK)) == project(own, setting._replace(catalog=PARK))


@given(histories())
def test_one_customer_is_never_second(events: list[Event]) -> None:
    assert second_customers(fold(events)) == set()
