"""What operators do about usage: look, correct, and export the counters of all tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.console import TOKEN, act, get, http, login
from tests.support.system import CATALOG, System, ago, event, run_system
from tests.support.usage import end_window

METERS = """
[meters.seats]
kind = "allocated"

[meters.projects]
kind = "consumable"
"""


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
