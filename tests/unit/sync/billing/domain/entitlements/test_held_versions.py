"""Which versions of plans a tenant has, for operators: of each application, of purchases and of grants."""

from __future__ import annotations

from dataclasses import replace

from sync.billing.catalog import catalog
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.held_versions import held_versions
from sync.billing.domain.entitlements.overrides import add_override
from sync.billing.domain.facts.instructions import PLAN, VERSION, Override
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.core import instants
from tests.support.histories import at, event

CATALOG = catalog.parse(
    f"""
[policy]
app = "crm"

[plans.free]
name = "Free"
rank = 0
default = true

[plans.bundle]
name = "Bundle"
rank = 90
prices.paddle.live = ["pri_bundle"]

[plans.tickets]
name = "Tickets"
rank = 20
app = "mail"
version = "2027"
prices.paddle.live = ["pri_tickets"]

[[plans.tickets.versions]]
version = "2026"
until = {instants.text(at(40))}

[plans.pro]
name = "Pro"
rank = 20
app = "crm"
version = "2027"
prices.paddle.live = ["pri_pro"]

[[plans.pro.versions]]
version = "founders"
prices.paddle.live = ["pri_founders"]
"""
)
SETTING = Setting(CATALOG, "live", (), at(60))


def folded(*events: Event, facts: Facts = NOTHING) -> Facts:
    for each in events:
        result = reduce(facts, each)
        assert isinstance(result, Reduced)
        facts = result.facts
    return facts


def granted(facts: Facts, kind: str, plan: str, value: bool | str, day: float) -> Facts:
    return add_override(facts, Override(kind, plan, value, "asked for"), SETTING._replace(now_ns=at(day)))


def held(facts: Facts) -> list[tuple[str, ...]]:
    return [tuple(each) for each in held_versions(facts, SETTING)]


def test_of_each_application_the_leading_one_first() -> None:
    both = folded(event("active", 10, (Item("pri_tickets", 1), Item("pri_founders", 1))))
    assert held(both) == [
        ("paddle:sub_1", "pro", "founders", "price"),
        ("paddle:sub_1", "tickets", "2026", "purchase"),
    ]


def test_a_plan_of_all_applications_is_one() -> None:
    assert held(folded(event("active", 10, (Item("pri_bundle", 1),)))) == [
        ("paddle:sub_1", "bundle", "current", "purchase")
    ]


def test_granted_plans_are_listed_with_the_version_of_their_day() -> None:
    facts = granted(granted(NOTHING, PLAN, "tickets", True, 30), PLAN, "pro", True, 30)
    assert held(facts) == [("", "pro", "2027", "grant"), ("", "tickets", "2026", "grant")]
    assert ("", "tickets", "2027", "move") in held(granted(facts, VERSION, "tickets", "2027", 50))
    ended = replace(facts, overrides=tuple(replace(one, expires_ns=at(55)) for one in facts.overrides))
    assert held(ended) == []


def test_an_ended_subscription_has_none() -> None:
    assert held(folded(event("active", 10, (Item("pri_pro", 1),)), event("canceled", 20, (Item("pri_pro", 1),)))) == []
