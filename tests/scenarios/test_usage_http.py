"""Usage over HTTP: counted against what the last webhook bought, in batches, and shown in an open tab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.gateway import token
from tests.support.system import CATALOG, FENCE, Tab, ago, event, run_system

METERED = CATALOG + '\n[meters.projects]\nkind = "consumable"\n\n[meters.seats]\nkind = "allocated"\n'
BASIC: dict[str, Any] = {"items": [("pri_basic", 4)], "status": "active"}


def shows(meter: str, **members: object) -> Any:
    """Return whether a tab of a usage topic shows these members of a meter."""

    def is_shown(tab: Tab) -> bool:
        return tab.state is not None and members.items() <= tab.state["meters"][meter].items()

    return is_shown


async def test_s113_an_upgrade_counts_for_the_next_call_and_an_open_tab_shows_both(
    store_url: str, tmp_path: Path
) -> None:
    jwt = token("tenant:acme", FENCE)
    async with (
        run_system(store_url, tmp_path, catalog=METERED) as system,
        system.tab("usage:acme", jwt=jwt) as tab,
    ):
        taken = await system.ask("POST", "/v1/tenants/acme/usage/projects/consume", {"amount": 3, "key": "a"})
        assert (taken["allowed"], taken["remaining"], taken["version"]) == (True, 0, 0)
        denied = await system.ask("POST", "/v1/tenants/acme/usage/projects/consume", {"key": "b"})
        assert (denied["allowed"], denied["used"], denied["limit"]) == (False, 3, 3)
        await tab.until(shows("projects", used=3, limit=3, status="reached"))

        version = await system.apply(event(ago(1), **BASIC))
        again = await system.ask("POST", "/v1/tenants/acme/usage/projects/consume", {"key": "b"})
        assert (again["allowed"], again["used"], again["limit"], again["version"]) == (True, 4, 25, version)
        await tab.until(shows("projects", used=4, limit=25, remaining=21))
        assert tab.state["entitlements"] == version


async def test_s113_a_batch_counts_for_several_tenants_each_with_its_own_limits(store_url: str, tmp_path: Path) -> None:
    jwt = token("tenant:acme", FENCE)
    async with (
        run_system(store_url, tmp_path, catalog=METERED) as system,
        system.tab("usage:acme", jwt=jwt) as tab,
    ):
        await system.apply(event(ago(1), **BASIC))
        calls = [
            {"tenant": "acme", "meter": "seats", "operation": "set", "amount": 4},
            {"tenant": "other", "meter": "seats", "operation": "set", "amount": 4},
            {"tenant": "acme", "meter": "seats"},
            {"tenant": "acme", "meter": "projects", "operation": "reserve", "id": "job", "amount": 20},
            {"tenant": "acme", "meter": "projects", "amount": 6},
            {"tenant": "acme", "meter": "projects", "operation": "finalize", "id": "job", "amount": 2},
            {"tenant": "acme", "meter": "projects", "amount": 6},
            {"tenant": "acme", "meter": "storage"},
        ]
        results = (await system.ask("POST", "/v1/usage/batch", {"calls": calls}))["results"]
        assert [one.get("allowed", one.get("code")) for one in results] == [
            *(True, False, False, True, False, True, True),
            "meter_unknown",
        ]
        await tab.until(shows("seats", used=4, remaining=0))
        await tab.until(shows("projects", used=8, reserved=0, remaining=17))
        one = await system.ask("GET", "/v1/tenants/acme/usage/projects")
        assert (one["used"], one["entitlements"]) == (8, tab.state["entitlements"])
