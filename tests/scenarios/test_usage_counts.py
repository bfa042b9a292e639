"""What is counted when: the newest entitlements, windows that begin by themselves, and many callers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_usage_http import BASIC, METERED, shows
from tests.support.gateway import token
from tests.support.system import FENCE, Seller, System, ago, event, run_system, selling

MONTH_S = 28 * 86_400
LATE_S = 8.0
PRO: dict[str, Any] = {"items": [("pri_pro", 4)], "status": "active"}


async def consume(system: System, amount: int = 1, **more: str) -> dict[str, Any]:
    return await system.ask("POST", "/v1/tenants/acme/usage/projects/consume", {"amount": amount, **more})


def period(begun_s: float, ends_s: float) -> dict[str, Any]:
    """A billing period from `begun_s` ago until `ends_s` from now."""
    return {"current_billing_period": {"starts_at": ago(begun_s), "ends_at": ago(-ends_s)}}


@pytest.fixture
async def seller(tmp_path: Path) -> AsyncIterator[Seller]:
    async with selling(tmp_path / "seller") as seller:
        yield seller


async def test_s110_what_an_operator_gives_and_takes_back_counts_for_the_next_call(
    store_url: str, tmp_path: Path
) -> None:
    async with run_system(store_url, tmp_path, catalog=METERED) as system:
        await system.apply(event(ago(5), **BASIC))
        assert (await consume(system, 25))["remaining"] == 0
        assert not (await consume(system))["allowed"]
        override = {"kind": "limit", "name": "projects", "value": 30, "reason": "asked"}
        given = await system.ask("POST", "/v1/tenants/acme/overrides", override)
        found = await consume(system)
        assert (found["allowed"], found["limit"], found["version"]) == (True, 30, given["version"])
        taken = await system.ask("DELETE", "/v1/tenants/acme/overrides/limit/projects", {"reason": "over"})
        found = await consume(system)
        assert (found["allowed"], found["used"], found["limit"]) == (False, 26, 25)
        assert (found["over"], found["version"]) == (1, taken["version"])


async def test_s110_a_scheduled_downgrade_counts_from_its_instant_and_not_before(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    jwt = token("tenant:acme", FENCE)
    async with (
        run_system(store_url, tmp_path, catalog=METERED, **seller.settings) as system,
        system.working(),
        system.tab("usage:acme", jwt=jwt) as tab,
    ):
        await system.tell(seller.events((await seller.act("upgrade", plan="pro"))["event_ids"]))
        await tab.until(shows("projects", limit="unlimited"))
        await system.ask("POST", "/v1/tenants/acme/scheduled-change", {"plan": "basic", "effective_at": ago(-3)})
        before = await consume(system, 60)
        assert (before["allowed"], before["limit"]) == (True, "unlimited")
        await tab.until(shows("projects", limit=25, used=60, status="over"), timeout_s=3 + LATE_S)
        after = await consume(system)
        assert (after["allowed"], after["limit"], after["used"]) == (False, 25, 60)


async def test_s111_a_window_begins_by_itself_and_a_late_renewal_does_not_begin_it_again(
    store_url: str, tmp_path: Path
) -> None:
    jwt = token("tenant:acme", FENCE)
    async with (
        run_system(store_url, tmp_path, catalog=METERED) as system,
        system.tab("usage:acme", jwt=jwt) as tab,
    ):
        ends = ago(-2)
        first: dict[str, Any] = {"current_billing_period": {"starts_at": ago(MONTH_S - 2), "ends_at": ends}}
        await system.apply(event(ago(3), **BASIC, **first))
        assert (await consume(system, 25))["resets_at"] == ends
        assert not (await consume(system))["allowed"]
        await tab.until(shows("projects", used=25))
        # Nobody calls, and no webhook comes: the page shows the new window in time.
        await tab.until(shows("projects", used=0, remaining=25), timeout_s=2 + LATE_S)
        assert (await consume(system, 5))["used"] == 5
        second: dict[str, Any] = {"current_billing_period": {"starts_at": ends, "ends_at": ago(-MONTH_S)}}
        await system.apply(event(ago(0), **BASIC, **second))
        renewed = await consume(system)
        assert (renewed["used"], renewed["resets_at"]) == (6, second["current_billing_period"]["ends_at"])


async def test_s111_upgrades_keep_the_count_and_a_period_that_begins_early_counts_anew(
    store_url: str, tmp_path: Path
) -> None:
    async with run_system(store_url, tmp_path, catalog=METERED) as system:
        trial = period(10, MONTH_S)
        await system.apply(event(ago(9), items=[("pri_basic", 4)], status="trialing", **trial))
        assert (await consume(system, 20))["used"] == 20
        await system.apply(event(ago(8), **PRO, **trial))
        assert (await consume(system, 20))["used"] == 40, "an upgrade keeps what was used"
        await system.apply(event(ago(7), **BASIC, **trial))
        assert not (await consume(system))["allowed"], "and so does the way back"
        # The trial ends early: a new period of the same plan counts anew.
        paid = period(1, MONTH_S)
        await system.apply(event(ago(1), **BASIC, **paid))
        found = await consume(system)
        assert (found["allowed"], found["used"]) == (True, 1)


async def test_s112_many_callers_of_two_gateways_get_each_unit_once(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    jwt = token("tenant:acme", FENCE)
    async with (
        run_system(store_url, tmp_path / "a", catalog=METERED) as one,
        run_system(store_url, tmp_path / "b", catalog=METERED) as other,
        one.tab("usage:acme", jwt=jwt) as tab,
    ):
        calls = [consume((one, other)[number % 2], key=f"call-{number}") for number in range(80)]
        # Each is sent to both gateways: a repetition counts once.
        calls += [consume((other, one)[number % 2], key=f"call-{number}") for number in range(0, 80, 2)]
        upgrade = one.apply(event(ago(1), **BASIC))
        await asyncio.gather(upgrade, *calls)
        found = [await consume(other, key=f"call-{number}") for number in range(80)]
        assert sum(each["allowed"] for each in found) == 25
        assert {each["used"] for each in found} == {25}
        await tab.until(shows("projects", used=25, limit=25, remaining=0, status="reached"))
