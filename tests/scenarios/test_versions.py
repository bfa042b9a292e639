"""Versions of plans: an edit of the catalog for new customers only, and moving existing ones."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from functools import partial
from pathlib import Path

from sync.core import instants
from tests.scenarios.test_items import outcome, seen, stripe_event
from tests.support import processes
from tests.support.cases import CATALOG, run_cases
from tests.support.gateway import PUBLISH_KEY
from tests.support.system import System, Tab, ago, event, of_sync
from tests.support.wait import until

PRO = '[plans.pro]\nname = "Pro"\nrank = 20\nfeatures = ["basic", "export", "sso"]\n'
LIMITS = 'limits = { seats = 0, projects = "unlimited" }\nper_unit.limits = { seats = 1 }\n'
DAY_S = 86_400


def edited(ends_at: str) -> str:
    """The catalog after Pro was cut down for those who buy it from `ends_at` on."""
    now = '[plans.pro]\nname = "Pro"\nrank = 20\nversion = "new"\nfeatures = ["basic"]\n'
    version = f'[[plans.pro.versions]]\nversion = "old"\nuntil = {ends_at}\nfeatures = ["basic", "export", "sso"]\n'
    before, after = CATALOG.split(PRO + LIMITS)
    prices, others = after.split("\n\n", 1)
    return f"{before}{now}limits = {{ seats = 3 }}\n{prices}\n\n{version}{LIMITS}\n{others}"


def paddle(tenant: str, at_s: float, *, created_s: float | None = None, **fields: object) -> bytes:
    created = ago(at_s if created_s is None else created_s)
    return event(ago(at_s), tenant=tenant, created_at=created, items=[("pri_pro_live", 2)], **fields)


async def planwire(system: System, directory: Path, *arguments: str) -> str:
    """What a command of the command line prints; `diff` opens the store, the others call the gateway.

    None knows the catalog by PLANWIRE_CATALOG, as beside `make run`.
    """
    run = partial(subprocess.run, capture_output=True, text=True, check=True, timeout=60)
    environ = processes.clean_environ(directory, PLANWIRE_PUBLISH_KEY=PUBLISH_KEY, **of_sync(system.environ))
    del environ["PLANWIRE_CATALOG"]
    url = [] if "diff" in arguments else ["--url", system.gateway.url]
    command = [*processes.python("-m", "gateway.cli"), "catalog", *arguments, *url]
    return str((await asyncio.to_thread(run, command, env=environ)).stdout)


def terms(tab: Tab) -> tuple[object, bool]:
    return tab.state["limits"].get("seats"), "sso" in tab.state["features"]


class TestVersions:
    """Scenario 80."""

    async def test_s80_an_edit_for_new_customers_only_changes_no_existing_one(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """Of Paddle and of Stripe, with a worker that sweeps; an upgrade and a new purchase have the new terms."""
        async with run_cases(store_url, tmp_path) as system, system.working():
            await outcome(system, paddle("acme", 3 * DAY_S))
            await outcome(system, stripe_event("active", 3 * DAY_S, tenant="globex", quantity=2))
            await outcome(system, event(ago(3 * DAY_S), tenant="later", items=[("pri_basic_live", 1)]))
            async with system.tab() as tab, system.tab("tenant:globex") as other, system.tab("tenant:later") as later:
                for each in (tab, other):
                    assert (await seen(each), terms(each)) == (("pro", "active"), (2, True))
                versions = tab.version, other.version
                system.catalog.write_text(edited(ago(DAY_S)))
                await outcome(system, paddle("newcomer", 60))
                await until(partial(_has, system, "newcomer", 3), 20)
                await outcome(system, event(ago(60), tenant="later", items=[("pri_pro_live", 2)]))
                assert (await seen(later), terms(later)) == (("pro", "active"), (3, False))
                await outcome(system, paddle("acme", 50, created_s=3 * DAY_S, kind="subscription.updated"))
                await outcome(system, stripe_event("active", 50, tenant="globex", quantity=2))
                for each, version in zip((tab, other), versions, strict=True):
                    await each.fence()
                    assert (each.version, terms(each)) == (version, (2, True))

    async def test_s80_who_subscribes_again_has_the_present_terms(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=edited(ago(DAY_S))) as system, system.tab() as tab:
            await outcome(system, paddle("acme", 3 * DAY_S))
            assert (await seen(tab), terms(tab)) == (("pro", "active"), (2, True))
            await outcome(system, paddle("acme", 100, created_s=3 * DAY_S, status="canceled"))
            assert await seen(tab) == ("free", "canceled")
            await outcome(system, paddle("acme", 50, id="sub_again"))
            assert (await seen(tab), terms(tab)) == (("pro", "active"), (3, False))

    async def test_s80_all_are_listed_and_moved_once_and_each_can_be_moved_back(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """The second run finds nobody. Each move is in the history, and the pages show it."""
        async with run_cases(store_url, tmp_path, catalog=edited(ago(DAY_S))) as system, system.tab() as tab:
            await outcome(system, paddle("acme", 3 * DAY_S))
            await outcome(system, stripe_event("active", 2 * DAY_S, tenant="globex"))
            await outcome(system, paddle("newcomer", 60))
            rows = [json.loads(line) for line in (await planwire(system, tmp_path, "versions", "--json")).splitlines()]
            assert {(row["tenant"], row["plan"], row["version"], row["by"]) for row in rows} == {
                ("acme", "pro", "old", "purchase"),
                ("globex", "pro", "old", "purchase"),
                ("newcomer", "pro", "new", "purchase"),
            }
            move = ("migrate", "pro", "--version", "new", "--reason", "announced on 1 May", "--by", "eve")
            dry = await planwire(system, tmp_path, *move, "--dry-run")
            assert sorted(dry.splitlines()) == ["acme  would be moved", "globex  would be moved"]
            assert (await seen(tab), terms(tab)) == (("pro", "active"), (2, True))
            moved = await planwire(system, tmp_path, *move)
            assert sorted(moved.splitlines()) == ["acme  applied", "globex  applied"]
            assert (await seen(tab), terms(tab)) == (("pro", "active"), (3, False))
            assert await planwire(system, tmp_path, *move) == ""
            changes = (await system.ask("GET", "/v1/tenants/acme/history"))["changes"]
            cause = changes[0]["cause"]
            assert (cause["override"], cause["reason"], cause["claimed_by"]) == ("version:pro", move[5], "eve")
            back = ("migrate", "pro", "--version", "old", "--tenant", "acme", "--reason", "asked to keep it")
            await planwire(system, tmp_path, *back)
            assert (await seen(tab), terms(tab)) == (("pro", "active"), (2, True))
            (link,) = (await system.ask("GET", "/v1/tenants/acme/links"))["links"]
            assert (link["plan"], link["plan_version"], link["version_by"]) == ("pro", "old", "move")

    async def test_s80_the_diff_says_who_gains_and_who_loses(self, store_url: str, tmp_path: Path) -> None:
        """From the files, and of each tenant. An edit for new customers only changes no tenant."""
        plain = tmp_path / "plain.toml"
        plain.write_text(CATALOG.replace(PRO + LIMITS, PRO.replace(', "sso"', "") + "limits = { seats = 3 }\n"))
        kept = tmp_path / "kept.toml"
        kept.write_text(edited(instants.text(time.time_ns())))
        async with run_cases(store_url, tmp_path) as system:
            await outcome(system, paddle("acme", 3 * DAY_S))
            await outcome(system, event(ago(60), tenant="small", items=[("pri_basic_live", 1)]))
            old = str(system.catalog)
            files = await planwire(system, tmp_path, "diff", old, str(plain))
            assert "existing customers of pro\n  gains limit seats: 0 -> 3\n  loses feature sso" in files
            assert "[[plans.pro.versions]]" in files
            tenants = await planwire(system, tmp_path, "diff", old, str(plain), "--tenants")
            assert tenants.splitlines() == [
                "acme  pro",
                "  gains limit seats: 2 -> 3",
                "  loses feature sso, limit projects: unlimited -> none",
            ]
            assert await planwire(system, tmp_path, "diff", old, str(kept), "--tenants") == ""


async def _has(system: System, tenant: str, seats: int) -> bool:
    return bool((await system.state(f"tenant:{tenant}"))["limits"]["seats"] == seats)
