"""Versions with everything else that a catalog has, its tools on a store of many tenants, and two catalogs at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sync.billing.catalog.values import UNLIMITED
from sync.store.keys import DEFAULT_KEYS as keys
from tests.scenarios.test_items import outcome, stripe_event
from tests.scenarios.test_purchases import transaction
from tests.scenarios.test_versions import planwire
from tests.support.cases import run_cases
from tests.support.polar_bodies import PRODUCTS, SECRET, at, envelope, subscription
from tests.support.polar_shop import post
from tests.support.system import System, ago, event

DAY_S = 86_400
EVERYTHING = f"""
[policy]
app = "crm"

[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
app = "crm"
limits = {{ seats = 10, projects = "unlimited" }}
prices.paddle.live = ["pri_pro_live"]
lookup_keys.stripe.live = ["pro_monthly"]
products.polar.live = ["{PRODUCTS["pro"]}"]

[plans.lifetime]
name = "Lifetime"
rank = 30
app = "crm"
purchase = true
limits = {{ seats = 50 }}
prices.paddle.live = ["pri_lifetime"]

[plans.tickets]
name = "Tickets"
rank = 90
app = "mail"
limits = {{ inboxes = 9, seats = 99 }}
prices.paddle.live = ["pri_tickets"]
"""


def edited(until_: str) -> str:
    """The catalog after its plans were cut down for who buys from then on."""
    text = EVERYTHING
    for plan, old, new in (
        ("pro", 'seats = 10, projects = "unlimited"', "seats = 3"),
        ("lifetime", "seats = 50", "seats = 5"),
        ("tickets", "inboxes = 9, seats = 99", "inboxes = 1, seats = 1"),
    ):
        text = text.replace(f"[plans.{plan}]\n", f'[plans.{plan}]\nversion = "new"\n').replace(old, new)
        text += f'\n[[plans.{plan}.versions]]\nversion = "old"\nuntil = {until_}\nlimits = {{ {old} }}\n'
    return text


async def limits(system: System, tenant: str) -> dict[str, Any]:
    """The limits of each of a tenant's applications."""
    return {app: each["limits"] for app, each in (await system.state(f"tenant:{tenant}"))["apps"].items()}


async def held(system: System, directory: Path, *plan: str) -> set[tuple[str, ...]]:
    """What `planwire catalog versions` lists."""
    lines = (await planwire(system, directory, "versions", *plan, "--json")).splitlines()
    return {(row["tenant"], row["plan"], row["version"], row["by"]) for row in map(json.loads, lines)}


class TestTools:
    """Scenario 102."""

    async def test_s102_what_every_provider_sold_before_the_edit_keeps_its_terms(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """By price, lookup key and product; by subscription and by purchase; of each application."""
        catalog = edited(ago(DAY_S))
        async with run_cases(store_url, tmp_path, catalog=catalog, POLAR_SECRETS=f"live:{SECRET}") as system:
            for who, day in (("before", 3 * DAY_S), ("after", 60)):
                items = [("pri_pro_live", 1), ("pri_tickets", 1)]
                made = {"tenant": f"paddle-{who}", "id": f"sub_{who}", "customer_id": f"ctm_{who}"}
                await outcome(system, event(ago(day), items=items, created_at=ago(day), **made))
                price = {"id": "price_negotiated", "lookup_key": "pro_monthly"}
                body = stripe_event("active", day, tenant=f"stripe-{who}", created=0)
                body["data"]["object"]["items"]["data"][0]["price"] = price
                body["data"]["object"]["created"] = body["created"]
                await outcome(system, body)
                polar = subscription(f"polar-{who}", created_at=at(day), started_at=at(day))
                await post(system, envelope(polar, "subscription.active", day))
                bought = transaction(day, "pri_lifetime", tenant=f"once-{who}")
                assert await outcome(system, json.dumps(bought).encode()) == "applied"
            old, new = {"seats": 10, "projects": UNLIMITED}, {"seats": 3}
            for provider in ("paddle", "stripe", "polar"):
                assert (await limits(system, f"{provider}-before"))["crm"] == old, provider
                assert (await limits(system, f"{provider}-after"))["crm"] == new, provider
            assert (await limits(system, "paddle-before"))["mail"] == {"inboxes": 9, "seats": 99}
            assert (await limits(system, "paddle-after"))["mail"] == {"inboxes": 1, "seats": 1}
            assert [(await limits(system, f"once-{who}"))["crm"]["seats"] for who in ("before", "after")] == [50, 5]
            listed = await held(system, tmp_path)
            assert {row[1:] for row in listed if row[0] == "paddle-before"} == {
                ("pro", "old", "purchase"),
                ("tickets", "old", "purchase"),
            }
            assert {row[:3] for row in listed if row[0].startswith("once")} == {
                ("once-before", "lifetime", "old"),
                ("once-after", "lifetime", "new"),
            }
            cut = tmp_path / "cut.toml"
            cut.write_text(catalog.replace(PRODUCTS["pro"], PRODUCTS["basic"]))
            found = await planwire(system, tmp_path, "diff", str(system.catalog), str(cut), "--tenants")
            assert found.count(f"  what was published stays: unknown product {PRODUCTS['pro']} in live") == 2

    async def test_s102_one_application_is_moved_and_the_other_stays(self, store_url: str, tmp_path: Path) -> None:
        """So are granted plans, which are listed too; the tools say so before and after."""
        async with run_cases(store_url, tmp_path, catalog=EVERYTHING) as system:
            items = [("pri_pro_live", 1), ("pri_tickets", 1)]
            await outcome(system, event(ago(3 * DAY_S), items=items, created_at=ago(3 * DAY_S)))
            grant = {"kind": "plan", "name": "tickets", "value": True, "reason": "partner"}
            await system.ask("POST", "/v1/tenants/partner/overrides", grant)
            old = tmp_path / "old.toml"
            old.write_text(EVERYTHING)
            system.catalog.write_text(edited(ago(-60)))
            assert await planwire(system, tmp_path, "diff", str(old), str(system.catalog), "--tenants") == ""
            rows = {("acme", "tickets", "old", "purchase"), ("partner", "tickets", "old", "grant")}
            assert await held(system, tmp_path, "tickets") == rows
            cut = tmp_path / "cut.toml"
            cut.write_text(EVERYTHING.replace("inboxes = 9", "inboxes = 4"))
            found = await planwire(system, tmp_path, "diff", str(old), str(cut), "--tenants")
            loses = "  loses mail: limit inboxes: 9 -> 4"
            assert sorted(found.splitlines()) == [loses, loses, "acme  pro", "partner  free"]
            move = ("migrate", "tickets", "--version", "new", "--reason", "announced")
            assert len((await planwire(system, tmp_path, *move)).splitlines()) == 2
            assert await held(system, tmp_path, "tickets") == {(*row[:2], "new", "move") for row in rows}
            assert (await limits(system, "acme"))["mail"] == {"inboxes": 1, "seats": 1}
            assert (await limits(system, "acme"))["crm"] == {"seats": 10, "projects": UNLIMITED}
            assert (await limits(system, "partner"))["mail"] == {"inboxes": 1, "seats": 1}
            assert await planwire(system, tmp_path, *move) == ""

    async def test_s102_damaged_tenants_hide_nobody(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=edited(ago(DAY_S))) as system:
            await outcome(system, event(ago(60), items=[("pri_pro_live", 1)]))
            redis: Any = system.store.redis
            newer = {"owner": b"billing", "private": b'{"format":99,"subscriptions":{}}', "version": b"1"}
            await redis.hset(keys.snap("tenant:newer"), mapping=newer)
            await redis.sadd(keys.tenants("live"), "tenant:newer", "tenant:acme")
            assert await held(system, tmp_path) == {("acme", "pro", "new", "purchase")}
            cut = tmp_path / "cut.toml"
            cut.write_text(system.catalog.read_text().replace("seats = 3", "seats = 2"))
            found = await planwire(system, tmp_path, "diff", str(system.catalog), str(cut), "--tenants")
            assert "acme  pro\n  loses crm: limit seats: 3 -> 2" in found
            assert "tenant:newer" in found


class TestTwoCatalogs:
    """Scenario 103."""

    async def test_s103_what_a_process_with_the_old_catalog_computes_is_computed_anew(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """As in a rolling deploy: the worker has the new copy of the file first, the gateway goes on with the old."""
        async with run_cases(store_url, tmp_path, catalog=EVERYTHING) as system:
            new = tmp_path / "new" / "catalog.toml"
            new.parent.mkdir()
            new.write_text(EVERYTHING.replace("seats = 10", "seats = 20"))
            gateways, system.catalog = system.catalog, new
            system.environ = {**system.environ, "PLANWIRE_CATALOG": str(new)}
            async with system.tab() as tab:
                await tab.reaches(await system.apply(event(ago(60), items=[("pri_pro_live", 1)])))
                assert tab.state["limits"]["seats"] == 10
                async with system.working():
                    await tab.until(lambda tab: tab.state["limits"]["seats"] == 20)
            assert gateways.read_text() == EVERYTHING
