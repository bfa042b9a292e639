"""Publishing beside billing: no publish takes anything from billing, and billing takes published tenants over."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import pytest

from planwire_client import AsyncPublisher, PublishRefused
from planwire_client.core.commit import BILLING
from tests.support.cases import CATALOG, load, post_stripe, run_cases, send
from tests.support.stripe_bodies import body as stripe_body
from tests.support.system import System, ago, event

TOPIC = "tenant:acme"
OVERRIDES = "/v1/tenants/acme/overrides"
FREE = {"plan": {"key": "free", "name": "Free", "rank": 0}, "status": "none", "features": {}, "limits": {}}
BILLED = "topic_is_billed"


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    async with run_cases(store_url, tmp_path) as system:
        yield system


async def from_paddle(system: System, plan: str, quantity: int = 1, status: str = "active", age_s: float = 60) -> None:
    items = [(f"pri_{plan}_live", quantity)]
    assert await system.outcome(event(ago(age_s), items=items, status=status)) == "applied"


async def from_stripe(system: System, plan: str, quantity: int = 1, status: str = "active", age_s: float = 60) -> None:
    now = int(time.time())
    period = {"current_period_start": now - 100, "current_period_end": now + 10_000}
    item = {"id": "si_1", "price": {"id": f"price_{plan}_live"}, "quantity": quantity, **period}
    items = {"object": "list", "has_more": False, "data": [item]}
    envelope = {
        "id": f"evt_{plan}_{status}_{age_s:g}",
        "object": "event",
        "type": "customer.subscription.updated",
        "created": now - int(age_s),
        "livemode": True,
        "data": {"object": stripe_body(status=status, items=items, created=now - 1000)},
    }
    response = await post_stripe(system, envelope)
    assert (response.status_code, response.json()["outcome"]) == (200, "applied"), response.text


Deliver = Callable[..., Awaitable[None]]
providers = pytest.mark.parametrize("deliver", [from_paddle, from_stripe], ids=["paddle", "stripe"])


class TestRefused:
    """Scenario 67."""

    async def test_s67_a_publish_beside_billing_is_refused_and_everything_stays(self, system: System) -> None:
        """The case 3-publish-wipes-facts, with an override and a later event that names no tenant."""
        bought, publish, again = load("3-publish-wipes-facts")
        path = "/v1/tenants/f3/overrides"
        async with system.tab("tenant:f3") as tab:
            assert (await send(system, bought)).json()["outcome"] == "applied"
            await system.ask("POST", path, {"kind": "feature", "name": "beta", "value": True, "reason": "pilot"})
            before = await system.store.read("tenant:f3")
            refused = await send(system, publish)
            assert (refused.status_code, refused.json()["code"]) == (409, BILLED)
            assert "overrides" in refused.json()["detail"]
            assert await system.store.read("tenant:f3") == before
            await send(system, again)
            unnamed = bought["event"] | {"event_id": "evt_unnamed", "occurred_at": ago(1)}
            unnamed["data"] |= {"custom_data": None, "updated_at": ago(1)}
            assert (await send(system, {"door": "paddle", "event": unnamed})).json()["outcome"] == "applied"
            await (await tab.until(lambda tab: tab.plan == "pro")).fence()
            assert (tab.state["features"]["beta"], tab.state["limits"]["seats"]) == (True, 9)
            assert [one["name"] for one in (await system.ask("GET", path))["overrides"]] == ["beta"]

    @providers
    async def test_s67_no_way_of_publishing_changes_what_billing_knows(
        self, system: System, store_url: str, deliver: Deliver
    ) -> None:
        await deliver(system, "basic", 4)
        wanted = {"plan": {"key": "free"}}
        cloud_event: dict[str, object] = {
            "specversion": "1.0",
            "id": "e1",
            "source": "/app",
            "type": "plan.changed",
            "subject": TOPIC,
        }
        cloud_event |= {"data": wanted}
        before = await system.store.read(TOPIC)
        assert before.owner == BILLING
        async with system.tab() as tab:
            await tab.reaches(before.version)
            frames = len(tab.frames)
            for publish in (
                {"topic": TOPIC, "state": wanted},
                {"topic": TOPIC, "state": wanted, "private": {}, "if_version": before.version},
                {"topic": TOPIC, "state": wanted, "order": "9", "cause": {"source": "paddle"}},
                {"topic": TOPIC, "state": orjson.loads(before.state)},
                cloud_event,
            ):
                single = await system.http.post("/v1/publish", json=publish, headers=system.key)
                assert (single.status_code, single.json()["code"]) == (409, BILLED)
                items = [publish, {"topic": "user:42", "state": {}}]
                batch = await system.http.post("/v1/publish/batch", json=items, headers=system.key)
                refused, other = batch.json()["results"]
                assert (refused["code"], "overrides" in refused["detail"]) == (BILLED, True)
                assert other["verdict"] in ("applied", "unchanged")
            async with AsyncPublisher(store_url) as direct:
                with pytest.raises(PublishRefused) as raised:
                    await direct.publish(TOPIC, wanted, private={"format": 1, "subscriptions": {}})
                assert (raised.value.code, "grant" in raised.value.detail) == (BILLED, True)
            await tab.fence()
            assert [frame["type"] for frame in tab.frames[frames:]] == []
        assert await system.store.read(TOPIC) == before


class TestTakenOver:
    """Scenario 68."""

    @providers
    async def test_s68_billing_takes_over_a_tenant_that_was_published_at_sign_up(
        self, system: System, deliver: Deliver
    ) -> None:
        """Whatever the application keeps in the private part: it is no reason to park a purchase."""
        publish = {"topic": TOPIC, "state": FREE, "private": {"signed_up": "2026-11-30"}, "event_id": "signup-acme"}
        for verdict in ("applied", "duplicate"):
            assert (await system.ask("POST", "/v1/publish", publish))["verdict"] == verdict
        async with system.tab() as tab:
            await tab.until(lambda tab: tab.plan == "free")
            await deliver(system, "basic", 3)
            await tab.until(lambda tab: tab.plan == "basic")
            assert (tab.state["limits"]["seats"], "grant" in tab.state) == (3, False)
            late = await system.http.post("/v1/publish", json={"topic": TOPIC, "state": FREE}, headers=system.key)
            assert late.json()["code"] == BILLED
            assert (await system.ask("GET", "/v1/drift"))["counts"]["published"] == 0
            await deliver(system, "basic", status="canceled", age_s=30)
            await tab.until(lambda tab: tab.plan == "free")

    @providers
    async def test_s68_a_higher_published_plan_stays_as_a_grant_and_operators_are_told(
        self, system: System, deliver: Deliver
    ) -> None:
        """Also when the subscription ends, until the grant is removed."""
        state = FREE | {"plan": {"key": "pro"}, "limits": {"seats": 12}}
        await system.ask("POST", "/v1/publish", {"topic": TOPIC, "state": state})
        async with system.tab() as tab:
            await tab.until(lambda tab: tab.plan == "pro")
            await deliver(system, "basic", 3)
            await tab.until(lambda tab: tab.state["status"] == "active")
            assert (tab.plan, tab.state["limits"]["seats"], tab.state["grant"]) == ("pro", 12, {"plan": "pro"})
            (grant,) = (await system.ask("GET", OVERRIDES))["overrides"]
            assert (grant["kind"], grant["name"], "published" in grant["reason"]) == ("plan", "pro", True)
            drift = await system.ask("GET", "/v1/drift")
            (record,) = drift["drift"]
            assert drift["counts"]["published"] == 1
            assert (record["kind"], record["topic"]) == ("published", TOPIC)
            assert (record["here"], record["there"]) == ({"plan": "pro"}, {"plan": "basic"})
            await deliver(system, "basic", status="canceled", age_s=30)
            await tab.fence()
            assert tab.plan == "pro"
            await system.ask("DELETE", f"{OVERRIDES}/plan/pro", {"reason": "ended"})
            await tab.until(lambda tab: tab.plan == "free")

    async def test_s68_an_operators_first_act_takes_over_like_an_event(self, system: System) -> None:
        await system.ask("POST", "/v1/publish", {"topic": TOPIC, "state": FREE | {"plan": "basic"}})
        await system.ask("POST", OVERRIDES, {"kind": "feature", "name": "beta", "value": True, "reason": "pilot"})
        state = await system.state()
        assert (state["plan"]["key"], state["features"]["beta"]) == ("basic", True)

    async def test_s68_a_higher_plan_that_the_catalog_lacks_stays_until_it_is_known(self, system: System) -> None:
        """The purchase waits for the catalog; nothing is taken away meanwhile."""
        state = FREE | {"plan": {"key": "enterprise", "name": "Enterprise", "rank": 50}}
        await system.ask("POST", "/v1/publish", {"topic": TOPIC, "state": state})
        body = event(ago(60), items=[("pri_basic_live", 2)])
        assert await system.outcome(body) == "parked"
        (parked,) = await system.parked()
        assert "enterprise" in parked["reason"]
        async with system.tab() as tab, system.working():
            await tab.until(lambda tab: tab.plan == "enterprise")
            system.catalog.write_text(CATALOG + '\n[plans.enterprise]\nname = "Enterprise"\nrank = 50\n')
            await tab.until(lambda tab: tab.state["status"] == "active")
            assert (tab.plan, tab.state["limits"]["seats"]) == ("enterprise", 2)

    async def test_s68_nothing_that_a_publisher_writes_passes_for_facts_or_for_an_erasure(self, system: System) -> None:
        """Neither a private part in the form of facts, nor a cause in the words of an erasure."""
        override = {"kind": "feature", "name": "root", "value": True, "reason": "mine"}
        facts = {"format": 1, "subscriptions": {}, "overrides": [override], "erased_ns": 1}
        cause = {"source": "operator", "event_type": "tenant.erased"}
        publish = {"topic": TOPIC, "state": None, "private": facts, "cause": cause}
        assert (await system.ask("POST", "/v1/publish", publish))["verdict"] == "applied"
        async with system.tab() as tab:
            await from_paddle(system, "basic")
            await (await tab.until(lambda tab: tab.plan == "basic")).fence()
            assert "root" not in tab.state["features"]
            assert "gone" not in [frame["type"] for frame in tab.frames]
        assert json.loads((await system.store.read(TOPIC)).private).get("overrides") is None
