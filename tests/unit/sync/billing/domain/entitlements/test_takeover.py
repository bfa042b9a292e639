"""What billing makes of a state that was published before its first event."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sync.billing.domain.decision import Decided, Delivery, Tenant, decide, decide_without_event
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import State
from sync.billing.domain.facts.model import NOTHING, PLAN, Facts, Item, Override
from sync.billing.domain.outcome import WAITS_CATALOG, EventResult, Outcome
from tests.support.histories import BASIC, CATALOG, PRO, at, event

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
    assert (report.kind, report.here, report.there) == ("published", {"plan": key}, {"plan": "basic"})


@pytest.mark.parametrize(
    "published",
    [
        {},
        {"plan": None},
        {"plan": {"key": "free", "rank": 99}},
        {"plan": {"key": "basic"}},
        {"plan": {"key": "startup"}},
        {"plan": {"key": "startup", "rank": 10}},
        {"plan": {"key": "startup", "rank": "99"}},
        {"plan": {"key": "startup", "rank": True}},
        {"plan": {"key": 7, "rank": 99}},
        {"plan": {"rank": 99}},
        {"plan": ["pro"]},
    ],
)
def test_anything_else_is_replaced(published: State) -> None:
    result = taken(published)
    assert (result.facts.overrides, result.drifts, result.state["plan"]["key"]) == ((), (), "basic")


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
