"""What an account sells: prices, lookup keys and products."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from sync.billing.catalog import catalog as catalogs
from tests.scenarios.test_items import seen, stripe_event
from tests.support.cases import CATALOG, load, post_stripe, run_cases, send
from tests.support.system import System
from tests.support.wait import until

SOLD_BY_PRODUCT = CATALOG.replace(
    'prices.paddle.live = ["pri_pro_live"]',
    'prices.paddle.live = ["pri_pro_live"]\nproducts.paddle.live = ["pro_app"]\nproducts.stripe.live = ["prod_app"]'
    '\nlookup_keys.stripe.live = ["pro_monthly"]',
)


def stripe_prices(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The Stripe event, with these fields on the price of each item."""
    for entry in body["data"]["object"]["items"]["data"]:
        entry["price"] |= fields
    return body


async def applied(system: System, body: dict[str, Any]) -> str:
    return str((await post_stripe(system, body)).json()["outcome"])


class TestProducts:
    """Scenario 74."""

    def test_s74_the_catalog_of_the_case_maps_the_product(self) -> None:
        """The tests below rely on it."""
        sold = catalogs.parse(SOLD_BY_PRODUCT)
        assert sold.find("paddle", "live", "pri_new", "", "pro_app") is sold.plans["pro"]

    async def test_s74_a_negotiated_price_of_a_known_product_just_works(self, store_url: str, tmp_path: Path) -> None:
        """The case: both purchases are Pro; the extra item of the first is reported."""
        first, second = load("7-custom-price")
        async with run_cases(store_url, tmp_path, catalog=SOLD_BY_PRODUCT) as system:
            async with system.tab("tenant:f7") as tab, system.tab("tenant:f7b") as other:
                assert (await send(system, first)).json()["outcome"] == "applied"
                assert (await send(system, second)).json()["outcome"] == "applied"
                assert (await seen(tab), tab.state["limits"]["seats"]) == (("pro", "active"), 5)
                assert (await seen(other), other.state["limits"]["seats"]) == (("pro", "active"), 3)
            reasons = {entry["event_id"]: entry["reason"] for entry in await system.parked()}
            assert reasons == {first["event"]["event_id"]: "unknown price pri_support_plan in live"}

    async def test_s74_stripe_s_products_and_lookup_keys_too(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD_BY_PRODUCT) as system:
            shown: dict[str, dict[str, Any]] = {
                "product": {"product": "prod_app"},
                "expanded": {"product": {"id": "prod_app", "object": "product"}},
                "key": {"product": "prod_other", "lookup_key": "pro_monthly"},
            }
            for tenant, fields in shown.items():
                body = stripe_event("active", 60, tenant=tenant, items=[("price_deal", 4)])
                async with system.tab(f"tenant:{tenant}") as tab:
                    assert await applied(system, stripe_prices(body, **fields)) == "applied"
                    assert (await seen(tab), tab.state["limits"]["seats"]) == (("pro", "active"), 4)
            body = stripe_event("active", 60, tenant="none", items=[("price_deal", 4)])
            assert await applied(system, stripe_prices(body, product="prod_other", lookup_key="yearly")) == "parked"

    async def test_s74_a_price_that_is_listed_itself_counts_before_its_product(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """Basic and the setup fee are prices of the product that is Pro."""
        catalog = SOLD_BY_PRODUCT + '\n[ignore]\nprices.stripe.live = ["price_fee"]\n'
        async with run_cases(store_url, tmp_path, catalog=catalog) as system, system.tab() as tab:
            items = [("price_basic_live", 2), ("price_fee", 1)]
            body = stripe_prices(stripe_event("active", 60, items=items), product="prod_app")
            assert await applied(system, body) == "applied"
            assert (await seen(tab), tab.state["limits"]["seats"]) == (("basic", "active"), 2)
            assert await system.parked() == []

    async def test_s74_a_parked_purchase_is_used_once_the_catalog_has_its_product(
        self, store_url: str, tmp_path: Path
    ) -> None:
        _, second = load("7-custom-price")
        async with run_cases(store_url, tmp_path) as system, system.tab("tenant:f7b") as tab:

            async def none_parked() -> bool:
                return not await system.parked()

            assert (await send(system, second)).json()["outcome"] == "parked"
            system.catalog.write_text(SOLD_BY_PRODUCT)
            async with system.working():
                await tab.until(lambda tab: tab.plan == "pro", 30)
                await until(none_parked, 20)

    async def test_s74_a_lookup_key_that_goes_to_the_next_price_takes_nothing_away(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """In every order of arrival."""
        async with run_cases(store_url, tmp_path, catalog=SOLD_BY_PRODUCT) as system:
            for number, order in enumerate(itertools.permutations(range(3))):
                tenant = f"t{number}"

                def body(ago_s: int, key: str | None, tenant: str = tenant) -> dict[str, Any]:
                    made = stripe_event("active", ago_s, tenant=tenant, items=[("price_2025", 3)])
                    return stripe_prices(made, product="prod_other", lookup_key=key)

                bodies = [body(300, "pro_monthly"), body(200, None), body(100, None)]
                async with system.tab(f"tenant:{tenant}") as tab:
                    for index in order:
                        await applied(system, bodies[index])
                    assert (await seen(tab), tab.state["limits"]["seats"]) == (("pro", "active"), 3)
