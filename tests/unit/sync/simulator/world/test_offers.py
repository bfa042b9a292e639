from __future__ import annotations

from sync.billing.catalog import catalog
from sync.simulator.world import offers
from tests.support.world import LIVE, SANDBOX, Play


def test_plans_come_by_rising_rank() -> None:
    assert [plan.key for plan in LIVE.plans] == ["free", "basic", "pro"]
    assert [plan.is_default for plan in LIVE.plans] == [True, False, False]


def test_an_environment_sells_its_own_prices_only() -> None:
    assert LIVE.plan_price_ids
    assert LIVE.plan_price_ids.isdisjoint(SANDBOX.plan_price_ids)
    assert all(LIVE.price(price_id) is not None and SANDBOX.price(price_id) is None for price_id in LIVE.plan_price_ids)


def test_an_environment_without_prices_sells_nothing() -> None:
    assert (
        offers.of(catalog.parse('[plans.free]\nname = "Free"\nrank = 0\ndefault = true'), "live").plan_price_ids
        == set()
    )


def test_a_price_leads_back_to_its_plan() -> None:
    assert LIVE.plan_of(Play().subscribed("pro")) == LIVE.plan("pro") is not None
    assert LIVE.plan_of(Play().do("addon", addon="audit", new=True).subscription) is None
    assert SANDBOX.plan_of(Play().subscribed("pro")) is None
    assert LIVE.addon("audit") is not None
    assert LIVE.addon("pro") is None
