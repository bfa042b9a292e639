"""Polar's API behind the door: what it could not deliver, and changes of plans that are listed by their products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sync.billing.providers.polar.webhooks import STATE
from tests.support.polar import organization
from tests.support.polar_bodies import PRODUCTS, at, envelope, state
from tests.support.polar_shop import asking, post, shop, shown


async def test_s100_what_polar_could_not_deliver_is_taken_from_its_list(store_url: str, tmp_path: Path) -> None:
    async with organization() as polar, shop(store_url, tmp_path, **asking(polar)) as system, system.tab() as tab:
        data = polar.subscriptions[polar.add(seats=3)]
        other = polar.subscriptions[polar.add("globex", "basic")]
        received = polar.deliver(envelope(data, "subscription.created"), 300)
        assert (await post(system, envelope(data, "subscription.created"), received))["outcome"] == "applied"
        await shown(tab, "pro")
        polar.change(data["id"], status="canceled", ended_at=at())
        missed = polar.deliver(envelope(data, "subscription.revoked"), 200)
        polar.deliver(envelope(state(other["customer"], other), STATE), 100)
        async with system.tab("tenant:globex") as second, system.working():
            await shown(tab, "free", status="canceled")
            await shown(second, "basic")
            assert tab.cause["event_id"] == missed
        drift = (await system.ask("GET", "/v1/drift"))["drift"]
        assert {one["kind"] for one in drift} == {"missed_event"}
        assert (await post(system, envelope(data, "subscription.revoked"), missed))["outcome"] == "duplicate"


async def test_s101_a_plan_that_is_listed_by_its_product_is_changed_to(store_url: str, tmp_path: Path) -> None:
    path = "/v1/tenants/acme"
    async with organization() as polar, shop(store_url, tmp_path, **asking(polar)) as system, system.tab() as tab:
        data = polar.subscriptions[polar.add(seats=4)]
        await post(system, envelope(data))
        await shown(tab, "pro")
        foreseen = await system.ask("POST", f"{path}/preview", {"plan": "basic"})
        assert (foreseen["state"]["plan"]["key"], foreseen["state"]["limits"]["seats"]) == ("basic", 4)
        await system.ask("POST", f"{path}/preview/{foreseen['preview_id']}/confirm")
        soon: dict[str, Any] = {"plan": "basic", "effective_at": at(-2), "billing_mode": "prorated_immediately"}
        await system.ask("POST", f"{path}/scheduled-change", soon)
        await tab.until(lambda tab: tab.state.get("scheduled", {}).get("plan") == "basic")
        async with system.working():
            await shown(tab, "basic", status="active")
            assert "scheduled" not in tab.state
        assert [body.get("product_id") for body in polar.bodies] == [PRODUCTS["basic"]]
        assert (await system.ask("GET", "/v1/drift"))["drift"] == []
