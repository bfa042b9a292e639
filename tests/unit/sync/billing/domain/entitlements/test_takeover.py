"""What billing makes of a state that was published before its first event."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from sync.billing.domain.decision import Decided, Delivery, Tenant, decide, decide_without_event
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.preview import PreviewRequest, preview
from sync.billing.domain.entitlements.projection import State
from sync.billing.domain.entitlements.takeover import ENDED_REASON
from sync.billing.domain.facts.instructions import PLAN, Override
from sync.billing.domain.facts.model import FETCHED_ID, NOTHING, Event, Facts, Item
from sync.billing.domain.outcome import WAITS_CATALOG, EventResult, Outcome
from tests.support.histories import BASIC, CATALOG, PRO, arrivals, at, event, histories

SETTING = Setting(CATALOG, "live", (), at(20))


def taken(published: State, *, items: Sequence[Item] = BASIC, status: str = "active") -> Decided:
    result = decide(Tenant("tenant:acme", published=published), Delivery(event(status, 1, items=items)), SETTING)
    assert isinstance(result, Decided), result
    return result


@pytest.mark.parametrize(
    ("plan", "limits", "units"),
    [
        ({"key": "pro"}, {}, True),
        ({"key": "pro", "rank": 0}, {"seats": 7}, 7),
        ("pro", {"seats": "unlimited", "projects": 3}, True),
        ({"key": "team", "rank": 99}, {"seats": 11, "projects": 1}, 3),
        ({"key": "pro"}, {"seats": 2**53}, 1_000_000_000),
        ({"key": "pro"}, {"seats": True}, True),
        ({"key": "pro"}, None, True),
    ],
)
def test_a_higher_plan_of_the_catalog_is_granted_and_reported(plan: object, limits: object, units: object) -> None:
    result = taken({"plan": plan, "limits": limits})
    key = plan["key"] if isinstance(plan, dict) else plan
    (grant,) = result.facts.overrides
    assert (grant.kind, grant.name, grant.value, grant.expires_ns) == (PLAN, key, units, None)
    assert result.state["plan"]["key"] == key
    (report,) = result.drifts
    assert isinstance(report.here, dict)
    assert (report.kind, report.here["plan"], report.there) == ("published", key, {"plan": "basic"})


@pytest.mark.parametrize(
    "published",
    [
        {},
        {"plan": None},
        {"plan": {"key": "free", "rank": 99}},
        {"plan": {"key": "basic"}},
        {"plan": {"key": "startup", "rank": 10}},
        {"plan": {"key": 7, "rank": 99}},
        {"plan": {"rank": 99}},
        {"plan": ["pro"]},
        {"plan": "basic", "features": {"basic": True, "sso": False}, "limits": {"seats": 1}, "modules": {}},
        {"features": ["beta"], "limits": 7, "modules": {"billing": "none"}},
    ],
)
def test_anything_else_is_replaced(published: State) -> None:
    result = taken(published)
    assert (result.facts.overrides, result.drifts, result.state["plan"]["key"]) == ((), (), "basic")


@pytest.mark.parametrize(
    "lost",
    [
        {"plan": "startup"},
        {"features": {"beta": True}},
        {"limits": {"seats": 50}},
        {"limits": {"seats": "unlimited", "exports": 1}},
        {"modules": {"billing": "write"}},
        {"plan": "startup", "features": {"beta": True, "basic": 2}},
    ],
)
def test_what_is_replaced_by_less_is_reported(lost: State) -> None:
    """Whether a plan that the catalog lacks is above another is known from its rank alone."""
    published = {**lost, "features": {"basic": True, **lost.get("features", {})}}
    ranks: list[object] = [None, "99", True] if "plan" in lost else [None]
    for rank in ranks:
        plan = {"plan": {"key": lost["plan"], "rank": rank}} if "plan" in lost else {}
        result = taken(published | plan)
        (report,) = result.drifts
        assert (result.facts.overrides, report.kind, report.here) == ((), "published", lost)
        assert report.there == {"plan": "basic"}


def test_a_plan_of_the_same_rank_is_not_granted() -> None:
    assert taken({"plan": {"key": "team"}}, items=PRO).facts.overrides == ()


def test_an_ended_subscription_leaves_the_published_plan() -> None:
    assert taken({"plan": {"key": "basic"}}, status="canceled").state["plan"]["key"] == "basic"


def test_a_higher_plan_that_the_catalog_lacks_waits_for_it() -> None:
    published: State = {"plan": {"key": "enterprise", "rank": 50}}
    result = decide(Tenant("tenant:acme", published=published), Delivery(event("active", 1, items=BASIC)), SETTING)
    assert isinstance(result, EventResult)
    assert (result.outcome, result.waits) == (Outcome.PARKED, (WAITS_CATALOG,))
    assert "enterprise" in result.reason


def test_a_command_takes_over_like_an_event_and_a_look_takes_nothing() -> None:
    published: State = {"plan": {"key": "pro"}}
    beta = Override("feature", "beta", True, "pilot")

    def look(after: Facts) -> object:
        return decide_without_event(Tenant("tenant:acme", published=published), (), lambda facts: after, SETTING)

    assert look(NOTHING) == EventResult(Outcome.UNCHANGED)
    result = look(Facts(overrides=(beta,)))
    assert isinstance(result, Decided)
    assert [one.name for one in result.facts.overrides] == ["beta", "pro"]


def test_the_report_of_a_large_state_is_cut() -> None:
    (report,) = taken({"plan": "x" * 999, "features": {f"{number:03}{'y' * 99}": True for number in range(99)}}).drifts
    assert isinstance(report.here, dict)
    assert (report.subject, report.here["plan"], len(report.here["features"])) == ("x" * 60, "x" * 60, 20)
    assert {len(name) for name in report.here["features"]} == {60}


HISTORIES: dict[str, list[tuple[str, Sequence[Item]]]] = {
    "bought": [("incomplete", PRO), ("active", PRO), ("canceled", PRO)],
    "upgraded": [("active", BASIC), ("active", PRO), ("past_due", PRO), ("canceled", PRO)],
    "downgraded": [("trialing", PRO), ("active", BASIC), ("canceled", BASIC)],
    "below": [("active", BASIC), ("past_due", BASIC), ("canceled", BASIC)],
    "unpaid": [("incomplete", PRO), ("expired", PRO)],
}


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("plan", ["pro", "basic"])
def test_the_order_of_arrival_makes_no_difference(name: str, plan: str) -> None:
    """A grant is left exactly if the tenant has never bought the published plan, or a higher one."""
    history = [event(status, number, items=items) for number, (status, items) in enumerate(HISTORIES[name], 1)]
    is_bought = (plan, name) not in (("pro", "below"), ("pro", "unpaid"), ("basic", "unpaid"))
    for arrived in itertools.permutations(history):
        facts, state, published = NOTHING, {}, {"plan": {"key": plan}}
        for number, one in enumerate((*arrived, arrived[0])):
            result = decide(
                Tenant("tenant:acme", facts, published=None if number else published), Delivery(one), SETTING
            )
            if isinstance(result, Decided):
                facts, state = result.facts, result.state
        assert [one.name for one in facts.overrides] == ([] if is_bought else [plan])
        assert state["plan"]["key"] == ("free" if is_bought else plan)


@given(st.data())
def test_any_history_in_any_order_ends_with_the_same_grant_and_state(data: st.DataObject) -> None:
    history = data.draw(histories())
    published: State = {"plan": {"key": data.draw(st.sampled_from(["free", "basic", "team", "pro"]))}}

    def end(events: Sequence[Event]) -> tuple[Facts, State]:
        tenant, state = Tenant("tenant:acme", published=published), published
        for one in events:
            result = decide(tenant, Delivery(one), SETTING)
            if isinstance(result, Decided):
                tenant, state = Tenant("tenant:acme", result.facts), result.state
        return tenant.facts, state

    in_order, other = end(history), end(data.draw(arrivals(history)))
    assert other[0].overrides == in_order[0].overrides
    assert other[1] == in_order[1]


def test_a_fetched_body_decides_together_with_its_event() -> None:
    bought, ended = event("active", 1, items=PRO), event("canceled", 2, items=PRO, id=FETCHED_ID)
    tenant = Tenant("tenant:acme", published={"plan": {"key": "pro"}})
    result = decide(tenant, Delivery(bought, ended), SETTING)
    assert isinstance(result, Decided)
    assert (result.facts.overrides, result.state["plan"]["key"]) == ((), "free")


def test_an_end_of_the_grant_says_why_and_an_operator_s_grant_does_not_end() -> None:
    facts = taken({"plan": {"key": "pro"}}).facts
    bought = decide(Tenant("tenant:acme", facts), Delivery(event("active", 2, items=PRO)), SETTING)
    assert isinstance(bought, Decided)
    assert (bought.facts.overrides, bought.note) == ((), ENDED_REASON)
    confirmed = replace(facts, overrides=(replace(facts.overrides[0], by="jo", reason="a partner"),))
    bought = decide(Tenant("tenant:acme", confirmed), Delivery(event("active", 2, items=PRO)), SETTING)
    assert isinstance(bought, Decided)
    assert (bought.facts.overrides, bought.note) == (confirmed.overrides, "")


def test_a_preview_knows_that_the_grant_ends() -> None:
    facts = taken({"plan": {"key": "pro"}, "limits": {"seats": 9}}).facts
    foreseen = preview(facts, PreviewRequest(plan="pro", quantity=3), SETTING)
    assert ("grant" in foreseen.state, foreseen.state["limits"]["seats"]) == (False, 3)


def test_a_stranger_s_purchase_does_not_end_the_grant() -> None:
    """It only adds, and may end."""
    facts = taken({"plan": {"key": "pro"}}).facts
    other = event("active", 2, items=PRO, subscription="sub_2")
    assert other.subscription is not None
    body = replace(other.subscription, customer_id="ctm_2", created_ns=at(2))
    other = replace(other, customer_id="ctm_2", subscription=body)
    result = decide(Tenant("tenant:acme", facts), Delivery(other), SETTING)
    assert isinstance(result, Decided)
    assert [one.name for one in result.facts.overrides] == ["pro"]
