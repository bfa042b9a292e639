"""What operators do about usage: look, correct, and export the counters of all tenants."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from gateway import cli
from sync.store.redis.connect import connect
from tests.integration.test_usage import KEY, gateway
from tests.support.cluster import start_cluster
from tests.support.console import TOKEN, act, get, http, login
from tests.support.gateway import PUBLISH_KEY, Running
from tests.support.servers import redis_binary
from tests.support.system import CATALOG, System, ago, event, run_system
from tests.support.usage import end_window

METERS = """
[meters.seats]
kind = "allocated"

[meters.projects]
kind = "consumable"
"""

APPLICATIONS = """
[policy]
app = "crm"

[plans.free]
name = "Free"
rank = 0
default = true
app = "crm"
limits = { contacts = 3 }

[plans.crm]
name = "CRM"
rank = 10
app = "crm"
limits = { contacts = 500 }
prices.paddle.live = ["pri_crm"]

[plans.mail]
name = "Mail"
rank = 10
app = "mail"
limits = { letters = 40 }
prices.paddle.live = ["pri_mail"]

[meters.letters]
kind = "consumable"
app = "mail"

[meters.contacts]
kind = "allocated"
app = "crm"
"""


async def planwire(running: Running, *arguments: str) -> str:
    """Return what a command says on its standard output; it must succeed."""
    env = {"PORT": str(running.port), "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY, "PLANWIRE_DATA_DIR": "/nonexistent"}
    found = await asyncio.to_thread(CliRunner(env=env).invoke, cli.cli, arguments)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    async with run_system(store_url, tmp_path, catalog=CATALOG + METERS, CONSOLE_TOKEN=TOKEN) as system:
        yield system


class TestCorrectedUsage:
    """Scenario 121."""

    async def test_s121_an_operator_corrects_what_a_page_shows_and_the_history_says_who_and_why(
        self, system: System
    ) -> None:
        """The page shows the correction at once, and the next call counts from there."""
        await system.apply(event(ago(60), items=[("pri_pro", 3)]))
        path = "/v1/tenants/acme/usage/seats"
        async with system.tab("usage:acme") as tab, http(system.gateway) as client:
            await system.ask("POST", f"{path}/set", {"amount": 3})
            assert not (await system.ask("POST", f"{path}/consume", {"key": "seat-of-jane"}))["allowed"]
            await tab.until(lambda tab: tab.state and tab.state["meters"]["seats"]["status"] == "reached")
            assert (await login(client)).status_code == 204
            seen = await get(client, "usage/tenant:acme")
            assert [(one["key"], one["allowed"]) for one in seen["calls"] if not one["allowed"]] == [
                ("seat-of-jane", False)
            ]
            body = {"topic": "tenant:acme", "meter": "seats", "to": 2, "reason": "one has left"}
            assert (await act(client, "adjust_usage", **body)).status_code == 200
            await tab.until(lambda tab: tab.state["meters"]["seats"]["remaining"] == 1)
        (correction,) = (await system.ask("GET", f"{path}/history"))["corrections"]
        assert (correction["how"], correction["amount"], correction["reason"]) == ("to", 2, "one has left")
        assert correction["by"].startswith("console:")
        assert (await system.ask("POST", f"{path}/consume", {"key": "seat-of-jane"}))["allowed"]


class TestExport:
    """Scenario 122."""

    async def test_s122_the_counters_of_all_tenants_are_exported_for_each_window(self, system: System) -> None:
        """Also of windows that ended while nobody called, and of tenants that have bought nothing."""
        await system.apply(event(ago(60), items=[("pri_basic", 3)]))
        for tenant, amount in (("acme", 4), ("free", 2)):
            await system.ask("POST", f"/v1/tenants/{tenant}/usage/projects/consume", {"amount": amount})
        await end_window(system.store, "acme", "projects", used=21)
        found = (await system.ask("GET", "/v1/usage/export"))["counters"]
        counts = [
            (row["tenant"], row["used"], row["limit"], row["open"]) for row in found if row["meter"] == "projects"
        ]
        assert counts == [("acme", 21, 25, False), ("acme", 0, 25, True), ("free", 2, 3, True)]

    async def test_s122_an_erased_tenant_is_not_exported(self, system: System) -> None:
        await system.apply(event(ago(60), items=[("pri_basic", 3)]))
        await system.ask("POST", "/v1/tenants/acme/usage/projects/consume")
        await system.ask("DELETE", "/v1/tenants/acme", {"reason": "asked for"})
        assert (await system.ask("GET", "/v1/usage/export"))["counters"] == []


class TestManyTenants:
    """Scenario 128."""

    async def test_s128_meters_of_several_applications_are_told_apart(self, store_url: str, tmp_path: Path) -> None:
        """Each with the limit and the period of its own application, at the terminal, in the console, in the export."""
        async with run_system(store_url, tmp_path, catalog=APPLICATIONS, CONSOLE_TOKEN=TOKEN) as system:
            await system.apply(event(ago(60), items=[("pri_mail", 1)]))
            await system.ask("POST", "/v1/tenants/acme/usage/letters/consume", {"amount": 33})
            await system.ask("POST", "/v1/tenants/acme/usage/contacts/set", {"amount": 2})
            lines = (await planwire(system.gateway, "usage", "show", "acme")).splitlines()
            assert [line.split()[:6] for line in lines] == [
                ["meter", "app", "used", "reserved", "limit", "remaining"],
                ["letters", "mail", "33", "0", "40", "7"],
                ["contacts", "crm", "2", "0", "3", "1"],
            ]
            rows = csv.DictReader(io.StringIO(await planwire(system.gateway, "usage", "export")))
            counts = {(row["meter"], row["app"]): (row["used"], row["limit"], row["ends_at"] != "") for row in rows}
            assert counts == {("letters", "mail"): ("33", "40", True), ("contacts", "crm"): ("2", "3", False)}
            async with http(system.gateway) as client:
                assert (await login(client)).status_code == 204
                shown = (await get(client, "usage/tenant:acme"))["meters"]
            assert [(one["meter"], one["app"], one["status"]) for one in shown] == [
                ("letters", "mail", "near"),
                ("contacts", "crm", "ok"),
            ]

    async def test_s128_on_a_cluster_all_tenants_are_exported_page_by_page(self, tmp_path: Path) -> None:
        """Each tenant once, whichever shard it is on; also a window that ended while nobody called."""
        names = [f"t{number:03}" for number in range(250)]
        with start_cluster(redis_binary()) as cluster:
            async with gateway(cluster, tmp_path) as running:  # type: ignore[arg-type]
                calls = [{"tenant": name, "meter": "api_calls", "amount": 1 + int(name[1:]) % 3} for name in names]
                async with httpx2.AsyncClient(base_url=running.url, headers=KEY, timeout=30) as client:
                    answer = await client.post("/v1/usage/batch", json={"calls": calls})
                assert all(one["allowed"] for one in answer.json()["results"])
                store = connect(cluster.url).store
                await end_window(store, "t100", "api_calls", used=3)
                await store.aclose()
                found = await planwire(running, "usage", "export", "--meter", "api_calls")
        rows = [row for row in csv.DictReader(io.StringIO(found))]
        assert [row["tenant"] for row in rows if row["open"] == "true"] == names
        assert [(row["tenant"], row["used"]) for row in rows if row["open"] == "false"] == [("t100", "3")]
        assert {row["used"] for row in rows if row["tenant"] == "t005"} == {"3"}
