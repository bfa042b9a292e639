"""Publishing beside billing: no publish takes anything from billing, and billing takes published tenants over."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest

from planwire_client import AsyncPublisher, PublishRefused
from planwire_client.core.commit import BILLING
from tests.support import processes
from tests.support.cases import CATALOG, load, post_stripe, run_cases, send
from tests.support.gateway import PUBLISH_KEY
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


async def send_paddle(system: System, plan: str, quantity: int, status: str, age_s: float) -> str:
    items = [(f"pri_{plan}_live", quantity)]
    return await system.outcome(event(ago(age_s), items=items, status=status))


async def send_stripe(system: System, plan: str, quantity: int, status: str, age_s: float) -> str:
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
    assert response.status_code == 200, response.text
    return str(response.json()["outcome"])


class Deliver(NamedTuple):
    """Delivers an event of one provider: TOPIC buys a plan, or its subscription changes."""

    send: Callable[[System, str, int, str, float], Awaitable[str]]

    async def __call__(
        self,
        system: System,
        plan: str,
        quantity: int = 1,
        status: str = "active",
        age_s: float = 60,
        outcomes: Sequence[str] = ("applied",),
    ) -> None:
        assert await self.send(system, plan, quantity, status, age_s) in outcomes


from_paddle, from_stripe = Deliver(send_paddle), Deliver(send_stripe)
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

    async def test_s67_so_is_a_publish_to_a_tenant_of_grants_alone_and_to_an_erased_one(self, system: System) -> None:
        """The error says what to do instead; the command exits 1 with it."""
        grant = {"kind": "plan", "name": "pro", "value": True, "reason": "a partner"}
        await system.ask("POST", OVERRIDES, grant)
        await system.ask("POST", "/v1/tenants/gone/overrides", grant)
        await system.ask("DELETE", "/v1/tenants/gone", {"reason": "asked for"})
        for topic, said in ((TOPIC, "grant"), ("tenant:gone", "revive")):
            before = await system.store.read(topic)
            refused = await system.http.post("/v1/publish", json={"topic": topic, "state": FREE}, headers=system.key)
            assert (refused.json()["code"], said in refused.json()["detail"]) == (BILLED, True)
            assert await system.store.read(topic) == before
        command = processes.python("-m", "gateway.cli", "publish", TOPIC, json.dumps(FREE))
        environ = processes.clean_environ(
            system.catalog.parent, PORT=str(system.gateway.port), PLANWIRE_PUBLISH_KEY=PUBLISH_KEY
        )
        done = await asyncio.to_thread(
            subprocess.run, command, env=environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert all(said in done.stderr for said in (BILLED, "planwire grant")), done.stderr

    @providers
    async def test_s67_publishes_while_the_first_event_arrives(self, system: System, deliver: Deliver) -> None:
        """Each is before the takeover, or refused."""
        answers: list[tuple[int, str]] = []

        async def publish(number: int) -> None:
            state = FREE | {"limits": {"projects": number}}
            answer = await system.http.post("/v1/publish", json={"topic": TOPIC, "state": state}, headers=system.key)
            answers.append((answer.status_code, answer.json().get("code", "")))

        async with system.tab() as tab:
            await asyncio.gather(*map(publish, range(10)), deliver(system, "basic", 3), *map(publish, range(10, 20)))
            assert set(answers) <= {(200, ""), (409, BILLED)}
            await (await tab.until(lambda tab: tab.plan == "basic")).fence()
            assert tab.state["limits"]["seats"] == 3
            await publish(20)
            assert answers[-1] == (409, BILLED)


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

    async def test_s68_a_backend_may_have_published_under_the_ids_of_the_provider_s_events(
        self, system: System
    ) -> None:
        """Billing takes each of them all the same, and none twice."""
        async with system.tab() as tab:
            for number, plan in enumerate(("basic", "pro")):
                publish = {"topic": TOPIC, "state": FREE | {"plan": {"key": plan}}, "event_id": f"evt_{number}"}
                publish |= {"order": f"z{number}"}
                await system.ask("POST", "/v1/publish", publish)
            for number, plan in enumerate(("basic", "pro")):
                body = event(ago(60 - number), items=[(f"pri_{plan}_live", 2)], event_id=f"evt_{number}")
                assert [await system.outcome(body) for _ in range(2)] == ["applied", "duplicate"]
            await (await tab.until(lambda tab: tab.plan == "pro" and tab.state["status"] == "active")).fence()
            assert (tab.state["limits"]["seats"], "grant" in tab.state) == (2, False)

    @providers
    async def test_s68_a_higher_published_plan_stays_as_a_grant_and_is_reported(
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

    @providers
    @pytest.mark.parametrize("arrivals", list(itertools.permutations(range(3))))
    async def test_s68_whoever_buys_what_was_published_keeps_no_grant_of_it(
        self, system: System, deliver: Deliver, arrivals: tuple[int, ...]
    ) -> None:
        """A plan that was published at the checkout ends with what was bought, in whatever order events arrive."""
        await system.ask("POST", "/v1/publish", {"topic": TOPIC, "state": FREE | {"plan": {"key": "pro", "rank": 20}}})
        history = [("incomplete" if deliver is from_stripe else "trialing", 90), ("active", 60), ("canceled", 30)]
        async with system.tab() as tab:
            await tab.until(lambda tab: tab.plan == "pro")
            for number in arrivals:
                status, age_s = history[number]
                await deliver(system, "pro", 3, status, age_s, outcomes=("applied", "refused"))
            await tab.until(lambda tab: tab.plan == "free")
            assert ("grant" in tab.state, tab.state["status"]) == (False, "canceled")
        assert (await system.ask("GET", OVERRIDES))["overrides"] == []

    async def test_s68_a_subscription_that_moves_to_a_published_tenant_takes_it_over(self, system: System) -> None:
        """What was published there above it stays, and neither tenant can be published to."""
        for tenant, plan in (("new", "pro"), ("old", "free")):
            publish = {"topic": f"tenant:{tenant}", "state": FREE | {"plan": {"key": plan}}, "private": {"mine": 1}}
            await system.ask("POST", "/v1/publish", publish)
        basic = {"items": [("pri_basic_live", 4)], "id": "sub_moving"}
        async with system.tab("tenant:old") as old, system.tab("tenant:new") as new:
            await new.until(lambda tab: tab.plan == "pro")
            await system.apply(event(ago(90), tenant="old", **basic))
            await old.until(lambda tab: tab.plan == "basic")
            await system.apply(event(ago(60), tenant="new", **basic))
            await old.until(lambda tab: tab.plan == "free")
            await new.until(lambda tab: tab.state["status"] == "active")
            assert (new.plan, new.state["grant"], new.state["limits"]["seats"]) == ("pro", {"plan": "pro"}, 4)
            for tenant in ("old", "new"):
                publish = {"topic": f"tenant:{tenant}", "state": FREE}
                late = await system.http.post("/v1/publish", json=publish, headers=system.key)
                assert late.json()["code"] == BILLED
            await system.outcome(event(ago(30), tenant="new", status="canceled", **basic))
            await new.fence()
            assert new.plan == "pro"
        assert (await system.ask("GET", "/v1/drift"))["counts"]["published"] == 1
