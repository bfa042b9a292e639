"""What operators do: link a subscription, ignore other software's prices, revive a tenant, grant a plan."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from sync.store import counters
from tests.support import processes
from tests.support.cases import post_stripe, run_cases
from tests.support.gateway import PUBLISH_KEY
from tests.support.system import CATALOG, System, ago, event
from tests.support.wait import until

GRANT_S = 4
"""How long a granted plan lasts in these tests: long enough to look at it on a busy machine."""


class TestLinkedSubscription:
    """Scenario 57."""

    async def test_s57_a_linked_subscription_moves_at_once_and_its_metadata_does_not_move_it_back(
        self, system: System
    ) -> None:
        """It follows the link until the metadata names another tenant than the one that the link overruled."""
        bought: dict[str, Any] = {"id": "sub_1", "customer_id": "ctm_1"}
        async with system.tab() as old, system.tab("tenant:new") as new, system.tab("tenant:third") as third:
            await old.reaches(await system.apply(event(ago(60), **bought, items=[("pri_pro", 3)])))
            asked = {"subscription": "sub_1", "tenant": "new", "reason": "wrong account", "by": "eve"}
            linked = await system.ask("POST", "/v1/links", asked)
            await new.reaches(linked.pop("version"))
            assert linked == {
                "outcome": "applied",
                "topic": "tenant:new",
                "subscription": "paddle:sub_1",
                "was": "tenant:acme",
                "overrules": "acme",
            }
            await old.until(lambda tab: tab.plan == "free")
            assert (new.plan, new.state["limits"]["seats"]) == ("pro", 3)
            for topic in ("tenant:acme", "tenant:new"):
                cause = json.loads((await system.history(topic))[0].cause)
                assert (cause["source"], cause["reason"], cause["claimed_by"]) == ("operator", "wrong account", "eve")
            await new.reaches(await system.apply(event(ago(50), **bought, items=[("pri_pro", 5)])))
            await system.outcome(event(ago(55), **bought, items=[("pri_scale", 1)]))
            assert (new.plan, new.state["limits"]["seats"]) == ("pro", 5)
            (held,) = (await system.ask("GET", "/v1/tenants/new/links"))["links"]
            assert (held["subscription"], held["named_by"], held["overrules"]) == ("paddle:sub_1", "operator", "acme")
            assert held["names"] == {"operator": "new", "metadata": "acme"}
            (moved,) = (await system.ask("GET", "/v1/tenants/acme/links"))["moved"]
            assert (moved["subscription"], moved["to"]) == ("paddle:sub_1", "tenant:new")
            await third.reaches(await system.apply(event(ago(40), tenant="third", **bought, items=[("pri_pro", 6)])))
            await new.until(lambda tab: tab.plan == "free")
            await system.outcome(event(ago(30), tenant="new", **bought, status="canceled", items=[("pri_pro", 6)]))
            await third.until(lambda tab: tab.plan == "free")
            await old.fence()
            assert old.plan == "free"

    async def test_s57_a_link_releases_what_waits_for_a_tenant(self, store_url: str, tmp_path: Path) -> None:
        """Of two providers with one id the link says which; the command line says what it did."""
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            stripe = stripe_event("prod", price="price_pro_live", id="sub_1")
            assert (await post_stripe(system, stripe)).json()["outcome"] == "parked"
            paddle = event(ago(60), tenant=None, id="sub_1", items=[("pri_basic_live", 2)])
            assert await system.outcome(paddle) == "parked"
            asked = {"subscription": "sub_1", "tenant": "acme", "reason": "told by mail"}
            response = await system.http.post("/v1/links", json=asked, headers=system.key)
            assert (response.status_code, response.json()["code"]) == (409, "no_subscription")
            assert "paddle:sub_1 or stripe:sub_1" in response.json()["detail"]
            printed = await planwire(system, tmp_path, "link", "stripe:sub_1", "acme", "--reason", "told by mail")
            assert "stripe:sub_1 belongs to tenant:acme\n" in printed
            await tab.until(lambda tab: tab.plan == "pro")
            assert [parked["provider"] for parked in await system.parked()] == ["paddle"]
            await planwire(system, tmp_path, "link", "paddle:sub_1", "tenant:acme", "--reason", "told by mail")
            assert await system.parked() == []
            listed = await planwire(system, tmp_path, "links", "acme")
            assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
                ["paddle:sub_1", "active"],
                ["stripe:sub_1", "active"],
            ]

    async def test_s57_what_cannot_be_linked_changes_nothing(self, system: System) -> None:
        await system.apply(event(ago(60), id="sub_1"))
        await system.apply(event(ago(60), tenant="gone", id="sub_2", customer_id="ctm_2"))
        await system.ask("DELETE", "/v1/tenants/gone", {"reason": "asked for"})
        for asked, code, said in (
            ({"tenant": "gone"}, "tenant_erased", "tenant:gone was erased: revive it first"),
            ({"tenant": "undefined"}, "request_invalid", "'undefined' names nobody"),
            ({"tenant": "é" * 65}, "request_invalid", "an id has at most 128"),
            ({"tenant": "pwt1_YWNtZQ"}, "request_invalid", "'pwt1_YWNtZQ' is a signed reference"),
            ({"tenant": "new "}, "request_invalid", "'new ' begins or ends with white space"),
            ({"subscription": "sub 1"}, "request_invalid", "'sub 1' is not a subscription's id"),
            ({"subscription": "paddle:"}, "request_invalid", "'paddle:' is not a subscription's id"),
            ({"subscription": "Paddle:sub_1"}, "no_subscription", "whose 'Paddle:sub_1' is: write paddle:sub_1"),
        ):
            body = {"subscription": "sub_1", "tenant": "new", "reason": "x", **asked}
            response = await system.http.post("/v1/links", json=body, headers=system.key)
            assert response.json()["code"] == code
            assert said in response.json()["detail"]
        assert (await system.state())["plan"]["key"] == "pro"
        unseen = {"subscription": "sub_unseen", "tenant": "acme", "reason": "x"}
        answer = await system.ask("POST", "/v1/links", unseen)
        assert answer["reason"] == "no event of paddle:sub_unseen is applied yet: it counts from the first one that is"

    async def test_s57_the_subscription_of_an_erased_tenant_counts_again_once_it_is_linked(
        self, system: System
    ) -> None:
        """Its events were ignored and not kept, so the next one brings its state."""
        await system.apply(event(ago(60)))
        await system.ask("DELETE", "/v1/tenants/acme", {"reason": "asked for"})
        assert await system.outcome(event(ago(-1))) == "ignored"
        await system.ask("POST", "/v1/tenants/acme/revive", {"reason": "came back"})
        assert await system.outcome(event(ago(-2))) == "ignored"
        await system.ask("POST", "/v1/links", {"subscription": "sub_acme", "tenant": "acme", "reason": "came back"})
        async with system.tab() as tab:
            await tab.reaches(await system.apply(event(ago(-3))))
            assert tab.plan == "pro"


async def planwire(system: System, directory: Path, *arguments: str) -> str:
    """What a command of the command line prints."""
    run = partial(subprocess.run, capture_output=True, text=True, check=True, timeout=60)
    environ = processes.clean_environ(directory, PLANWIRE_PUBLISH_KEY=PUBLISH_KEY)
    command = [*processes.python("-m", "gateway.cli"), *arguments, "--url", system.gateway.url]
    return str((await asyncio.to_thread(run, command, env=environ)).stdout)


class TestOtherSoftware:
    """Scenario 58."""

    IGNORE = (
        CATALOG
        + """
[ignore]
prices.paddle.live = ["pri_theirs"]
products.stripe.live = ["prod_theirs"]
"""
    )

    async def test_s58_other_softwares_prices_are_ignored_with_a_counter(self, store_url: str, tmp_path: Path) -> None:
        """Of Paddle by a price, of Stripe by a product, whether they name a tenant or not. They leave no links."""
        async with run_cases(store_url, tmp_path, catalog=self.IGNORE) as system, system.tab() as tab:
            await tab.reaches(await system.apply(event(ago(60), items=[("pri_pro", 3)])))
            theirs = [("pri_theirs", 1)]
            bodies = [
                event(ago(50), tenant=None, items=theirs),
                event(ago(40), id="sub_theirs", items=theirs),
                event(ago(30), id="sub_theirs", items=theirs, status="past_due"),
                event(ago(20), tenant="their_tenant", items=theirs, status="canceled"),
            ]
            assert [await system.outcome(body) for body in bodies] == ["ignored"] * 4
            answers = [await post_stripe(system, stripe_event(product)) for product in ("prod_theirs", "prod_ours")]
            assert [answer.json()["outcome"] for answer in answers] == ["ignored", "parked"]
            await tab.fence()
            assert (tab.plan, len(await system.history())) == ("pro", 1)
            assert [parked["unknown_prices"] for parked in await system.parked()] == [["price_new"]]
            counted = (await counters.read(system.store))["ignored_events", (("reason", "price"), ("env", "live"))]
            assert counted == 5
            assert not await system.store.redis.keys("*sub_*their*")
            assert await system.apply(event(ago(10), items=[("pri_pro", 4), ("pri_theirs", 1)]))
            await tab.until(lambda tab: tab.state["limits"]["seats"] == 4)

    async def test_s58_events_parked_for_a_price_are_released_when_the_catalog_ignores_it(
        self, system: System, tmp_path: Path
    ) -> None:
        """Those of a known tenant, of an unknown one, and of none; the command line prints the line to add."""
        bodies = [
            event(ago(50), tenant=None, items=[("pri_theirs", 1)]),
            event(ago(40), items=[("pri_theirs", 1)]),
            event(ago(30), tenant="new", items=[("pri_theirs", 2)]),
            event(ago(20), tenant=None, id="sub_unlinked"),
        ]
        assert [await system.outcome(body) for body in bodies] == ["parked"] * 4
        printed = await planwire(system, tmp_path, "parked")
        line = 'prices.paddle.live = ["pri_theirs"]'
        assert f"[ignore]\n{line}\n" in printed
        async with system.working():
            system.catalog.write_text(f"{system.catalog.read_text()}\n[ignore]\n{line}\n")
            await until(lambda: self.count_parked(system, 1), 20)
        (left,) = await system.parked()
        assert "sub_unlinked" in left["reason"]
        assert (await counters.read(system.store))["ignored_events", (("reason", "price"), ("env", "live"))] == 3

    async def count_parked(self, system: System, expected: int) -> bool:
        return len(await system.parked()) == expected


def stripe_event(product: str, price: str = "price_new", id: str = "") -> dict[str, Any]:
    """An event of a Stripe subscription to a price of this product, which names no tenant."""
    sold = {"id": price, "product": product}
    now_s = int(time.time())
    period = {"current_period_start": now_s, "current_period_end": now_s + 86_400}
    body = {
        "id": id or f"sub_{product}",
        "object": "subscription",
        "status": "active",
        "customer": f"cus_{product}",
        "items": {"data": [{"price": sold, "quantity": 1, **period}], "has_more": False},
    }
    kind = "customer.subscription.updated"
    return {"id": f"evt_{product}", "type": kind, "created": now_s, "livemode": True, "data": {"object": body}}


class TestErasedTenantThatPaysAgain:
    """Scenario 59."""

    async def test_s59_a_returning_tenant_is_parked_and_applied_once_it_is_revived(self, system: System) -> None:
        """The new subscription's events come in any order; those of the old one stay ignored, before and after."""
        old: dict[str, Any] = {"id": "sub_old", "customer_id": "ctm_old", "items": [("pri_scale", 1)]}
        await system.apply(event(ago(90), **old))
        await system.ask("DELETE", "/v1/tenants/acme", {"reason": "asked for"})
        assert await system.outcome(event(ago(80), id="sub_before")) == "ignored", "it is of the time before"
        assert await system.outcome(event(ago(0), **old)) == "ignored", "of an erased subscription"
        new: dict[str, Any] = {"id": "sub_new", "customer_id": "ctm_new"}
        assert await system.outcome(event(ago(0), status="canceled", id="sub_over")) == "ignored", "it pays nothing"
        first = event(ago(-1), **new, items=[("pri_basic", 1)])
        second = event(ago(-2), **new, items=[("pri_pro", 4)])
        assert [await system.outcome(body) for body in (second, first)] == ["parked", "parked"]
        assert {parked["topic"] for parked in await system.parked()} == {"tenant:acme"}
        assert all("pays again: revive it" in parked["reason"] for parked in await system.parked())
        assert (await system.read())["state"] is None
        revived = await system.ask("POST", "/v1/tenants/acme/revive", {"reason": "came back", "by": "eve"})
        assert revived["outcome"] == "applied"
        async with system.tab() as tab:
            await tab.reaches(revived["version"])
            assert (tab.plan, tab.state["status"], tab.state["limits"]["seats"]) == ("pro", "active", 4)
            assert await system.outcome(event(ago(-3), **old)) == "ignored"
            assert await system.parked() == []
            changes = (await system.ask("GET", "/v1/tenants/acme/history"))["changes"]
            causes = [change["cause"] for change in changes if change["cause"]["source"] == "operator"]
            assert [(cause["event_type"], cause["reason"]) for cause in causes] == [
                ("tenant.revived", "came back"),
                ("tenant.erased", "asked for"),
            ]
            assert (causes[0]["claimed_by"], causes[0]["by"]) == ("eve", "tests")
            again = await system.ask("POST", "/v1/tenants/acme/revive", {"reason": "came back"})
            assert again == {"outcome": "unchanged", "version": revived["version"]}

    async def test_s59_an_operator_may_drop_the_event_instead(self, system: System) -> None:
        """The tenant stays erased, nothing stays parked, and the provider's retry is a duplicate."""
        await system.apply(event(ago(90)))
        await system.ask("DELETE", "/v1/tenants/acme", {"reason": "asked for"})
        body = event(ago(-1), id="sub_new", event_id="evt_back")
        assert await system.outcome(body) == "parked"
        dropped = await system.ask("POST", "/v1/parked/evt_back/drop", {"reason": "a test of the shop", "by": "eve"})
        assert dropped == {"outcome": "ignored", "reason": "dropped by tests for eve: a test of the shop"}
        assert await system.parked() == []
        assert await system.outcome(body) == "duplicate"
        assert (await system.read())["state"] is None
        newest = (await system.ask("GET", "/v1/tenants/acme/history"))["events"][0]
        assert (newest["event_id"], newest["outcome"], newest["reason"]) == ("evt_back", "ignored", dropped["reason"])
        response = await system.http.post("/v1/parked/evt_back/drop", json={"reason": "again"}, headers=system.key)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        response = await system.http.post("/v1/tenants/nobody/revive", json={"reason": "x"}, headers=system.key)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


class TestGrantedPlan:
    """Scenario 60."""

    PATH = "/v1/tenants/acme/overrides"

    async def test_s60_a_granted_plan_adds_to_billing_and_ends_at_its_date_by_itself(self, system: System) -> None:
        """No webhook comes after the grant. The worker's timer ends it, and the tab sees both changes."""
        async with system.tab() as tab:
            await tab.reaches(await system.apply(event(ago(60), items=[("pri_basic", 5)])))
            ends = ago(-GRANT_S)
            grant = {"kind": "plan", "name": "pro", "reason": "outage", "by": "eve", "expires_at": ends}
            granted = await system.ask("POST", self.PATH, grant)
            await tab.reaches(granted["version"])
            assert (tab.plan, tab.state["status"], tab.state["limits"]["seats"]) == ("pro", "active", 5)
            assert tab.state["grant"]["plan"] == "pro"
            assert (tab.state["valid_until"], tab.state["grant"]["ends_at"]) == (ends, ends)
            preview = await system.ask("POST", "/v1/tenants/acme/preview", {"cancel": "now"})
            assert (preview["state"]["plan"]["key"], preview["state"]["limits"]["seats"]) == ("pro", 1)
            (listed,) = (await system.ask("GET", self.PATH))["overrides"]
            assert listed == {**grant, "value": True}
            status = await system.ask("GET", "/v1/tenants/acme/status")
            assert status["store"]["state"]["grant"]["plan"] == "pro"
            async with system.working():
                await tab.until(lambda tab: tab.plan == "basic")
            assert ("grant" in tab.state, tab.state["limits"]["seats"]) == (False, 5)
            ended, made, _ = (await system.ask("GET", "/v1/tenants/acme/history"))["changes"]
            assert (ended["cause"]["source"], "overrides" in ended["cause"]) == ("timer", False)
            cause = {name: made["cause"][name] for name in ("event_type", "override", "reason", "claimed_by", "by")}
            assert cause == {
                "event_type": "override.granted",
                "override": "plan:pro",
                "reason": "outage",
                "claimed_by": "eve",
                "by": "tests",
            }

    async def test_s60_webhooks_during_a_grant_end_the_same_in_either_order(self, system: System) -> None:
        """What is paid for follows its events beside the grant, and is there again when the grant is removed."""
        history = [(ago(50), [("pri_scale", 1)]), (ago(40), [("pri_basic", 2)])]
        shown = []
        for tenant, order in (("acme", history), ("other", history[::-1])):
            path = f"/v1/tenants/{tenant}/overrides"
            first, second = (event(at, tenant=tenant, items=items) for at, items in order)
            await system.outcome(first)
            await system.ask("POST", path, {"kind": "plan", "name": "pro", "reason": "pilot", "value": 9})
            await system.outcome(second)
            granted = await system.state(f"tenant:{tenant}")
            await system.ask("DELETE", f"{path}/plan/pro", {"reason": "over"})
            shown.append((granted, await system.state(f"tenant:{tenant}")))
        assert shown[0] == shown[1]
        (granted, after), _ = shown
        assert (granted["plan"]["key"], granted["limits"]["seats"]) == ("pro", 9)
        assert (after["plan"]["key"], after["limits"]["seats"]) == ("basic", 2)

    async def test_s60_a_reverse_trial_starts_now_and_falls_back_to_what_is_paid_for(self, system: System) -> None:
        """A tenant that has bought nothing has the plan as a trial, and the default plan after it."""
        async with system.tab() as tab, system.working():
            ends = ago(-GRANT_S)
            trial = {"kind": "plan", "name": "scale", "reason": "sign-up", "expires_at": ends, "trial": True}
            await tab.reaches((await system.ask("POST", self.PATH, trial))["version"])
            assert (tab.plan, tab.state["status"], tab.state["trial_ends_at"]) == ("scale", "trialing", ends)
            await tab.until(lambda tab: tab.plan == "free")
            assert (tab.state["status"], "trial_ends_at" in tab.state) == ("none", False)
