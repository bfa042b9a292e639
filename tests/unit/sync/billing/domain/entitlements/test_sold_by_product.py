"""Providers whose subscriptions buy a product: a plan change names a product, and lands with a price of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sync.billing.catalog.catalog import parse
from sync.billing.domain.entitlements.awaited import await_preview, check_awaited
from sync.billing.domain.entitlements.items import Setting, entry_of
from sync.billing.domain.entitlements.preview import PreviewRequest, preview
from sync.billing.domain.entitlements.projection import Projected, Unprojectable, project
from sync.billing.domain.entitlements.scheduled_changes import ChangeRequest, plan_change, with_change
from sync.billing.domain.facts.model import NOTHING, Facts, Item
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.domain.outcome import ChangeRejected
from tests.support.histories import at, event

CATALOG_TEXT = """
[plans.free]
name = "Free"
rank = 0
default = true
[plans.basic]
name = "Basic"
rank = 10
products.polar.live = ["p_basic", "p_basic_old"]
[plans.pro]
name = "Pro"
rank = 20
products.polar.live = ["p_pro"]
[plans.team]
name = "Team"
rank = 30
prices.polar.live = ["p_team"]
products.polar.live = ["p_team_other"]
"""
CATALOG = parse(CATALOG_TEXT)
NOW_NS = at(20)
SETTING = Setting(CATALOG, "live", (), NOW_NS, {"polar"})


def bought(price_id: str, product_id: str, occurred: float = 1, before: Facts = NOTHING) -> Facts:
    told = replace(event("active", occurred, (Item(price_id, 3),), period=(0, 30)), provider="polar")
    assert told.subscription is not None
    told = replace(told, subscription=replace(told.subscription, products={price_id: product_id}))
    result = reduce(before, told)
    assert isinstance(result, Reduced)
    return result.facts


PRO = bought("price_of_pro", "p_pro")


@pytest.mark.parametrize(("plan", "product"), [("basic", "p_basic"), ("team", "p_team"), ("pro", "price_of_pro")])
def test_a_change_names_the_first_product_unless_prices_are_listed(plan: str, product: str) -> None:
    foreseen = preview(PRO, PreviewRequest(plan=plan), SETTING)
    assert foreseen.body.items == (Item(product, 3),)
    assert foreseen.state["plan"]["key"] == plan


def test_a_provider_that_sells_prices_needs_one() -> None:
    with pytest.raises(ChangeRejected, match="list the price"):
        preview(PRO, PreviewRequest(plan="basic"), SETTING._replace(product_sellers=()))
    with pytest.raises(ChangeRejected, match="list the product"):
        preview(PRO, PreviewRequest(plan="free"), SETTING)
    (entry,) = PRO.subscriptions.values()
    assert entry_of("p_basic", entry, SETTING._replace(product_sellers=())) is None


def test_an_unknown_item_is_named_by_its_product() -> None:
    unknown = bought("price_of_other", "p_other")
    assert project(unknown, SETTING) == Unprojectable("unknown product p_other in live")
    elsewhere = parse(CATALOG_TEXT + '[plans.x]\nname = "X"\nrank = 5\nproducts.polar.sandbox = ["p_other"]\n')
    found = project(unknown, SETTING._replace(catalog=elsewhere))
    assert found == Unprojectable("unknown product p_other in live; the catalog has p_other for sandbox")


def test_it_has_landed_with_a_price_of_the_product() -> None:
    awaited = await_preview(PRO, "pv_1", preview(PRO, PreviewRequest(plan="basic"), SETTING), NOW_NS)
    after = bought("price_of_basic", "p_basic", 20.5, awaited)
    projected = project(after, SETTING)
    assert isinstance(projected, Projected)
    settled, differing = check_awaited(awaited, after, projected, NOW_NS)
    assert (settled.awaited_previews, differing) == ((), [])
    other = bought("price_of_team", "p_team", 20.5, awaited)
    assert check_awaited(awaited, other, projected, NOW_NS)[1] != []


def test_a_scheduled_change_keeps_the_plan_that_is_sold_by_its_product() -> None:
    """`keep` names the plan that is granted until then: here the provider's product has been switched already."""
    basic = bought("price_of_basic", "p_basic")
    made = plan_change(basic, ChangeRequest("basic", at(29), keep="pro"), SETTING, {})
    assert made.keep == (Item("p_pro", 3),)
    projected = project(with_change(basic, made), SETTING)
    assert isinstance(projected, Projected)
    assert (projected.state["plan"]["key"], projected.state["scheduled"]["plan"]) == ("pro", "basic")
