"""The shadow while things go wrong: the other system is away, tenants move or are erased, the store fails over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sync.store.models import ABSENT
from tests.scenarios.test_shadow import AGREES, BASIC, MAPPING, PERIOD, bought, shadowed, shell
from tests.support.asgi import serving
from tests.support.cluster import start_cluster
from tests.support.console import TOKEN, get, http, login
from tests.support.sentinel import FAILOVER_S, watched_primary
from tests.support.servers import valkey_binary
from tests.support.system import CATALOG, System, ago, event, run_system
from tests.support.wait import until

NAMES = [f"t{number}" for number in range(30)]


async def seen(system: System) -> int:
    """How many of NAMES pages see something of."""
    found = await system.store.read_many([f"tenant:{name}" for name in NAMES])
    return sum(one.state != ABSENT for one in found)


@asynccontextmanager
async def other_system(answer: Any) -> AsyncIterator[dict[str, str]]:
    """Another system at whose door `answer` is called; yields the settings that name it."""
    async with serving(Starlette(routes=[Route("/plans/{tenant}", answer)])) as url:
        yield {"SHADOW_URL": f"{url}/plans/{{tenant}}", "SHADOW_RATE_PER_S": "2"}


class TestOtherSystem:
    """Scenario 104."""

    async def test_s104_a_switch_waits_for_no_answer_of_the_other_system(self, store_url: str, tmp_path: Path) -> None:
        never = asyncio.Event()

        async def hang(_: Request) -> Response:
            await never.wait()
            return JSONResponse({})

        async with (
            other_system(hang) as settings,
            shadowed(store_url, tmp_path, **settings) as system,
            system.working(shadow_pause_s=0.0),
        ):
            for name in NAMES:
                await system.outcome(bought(name))
            assert await seen(system) == 0
            await shell(system, "planwire shadow switch --all --reason checked --by eve")
            await until(lambda: _is(seen(system), len(NAMES)), 20)
            cause = orjson.loads((await system.history("tenant:t0"))[0].cause)
            assert (cause["event_type"], cause["reason"], cause["claimed_by"]) == ("shadow.switched", "checked", "eve")
            await shell(system, "planwire shadow switch --all --back")
            await until(lambda: _is(seen(system), 0), 20)
            never.set()

    async def test_s104_wrong_answers_are_reported_and_every_tenant_is_asked_again(
        self, store_url: str, tmp_path: Path
    ) -> None:
        answers: dict[str, Response] = {
            "a": PlainTextResponse("nope", 401),
            "b": PlainTextResponse("<html>"),
            "c": JSONResponse([1]),
        }

        async def answer(request: Request) -> Response:
            return answers.get(request.path_params["tenant"], JSONResponse({}, 404))

        async with (
            other_system(answer) as settings,
            shadowed(store_url, tmp_path, **settings) as system,
            system.working(shadow_pause_s=0.0),
        ):
            for name in ("a", "b", "c", "d"):
                await system.outcome(bought(name))

            async def failed() -> bool:
                text = (await system.http.get("/metrics")).text
                counted = 'planwire_shadow_comparisons_total{env="live",result="failed"}'
                return any(float(line.split()[1]) >= 3 for line in text.splitlines() if line.startswith(counted))

            await until(failed, 20)
            report = await shell(system, "planwire shadow report")
            assert "compared   0, 1 unknown there" in report
            assert any(f"tenant:{name} at " in report for name in "abc")
            answers.update({name: JSONResponse(AGREES) for name in "abc"})
            await until(lambda: _holds(system, "compared", 3), 30)
            assert "differing  0" in await shell(system, "planwire shadow report")

    async def test_s104_a_wrong_path_is_not_an_agreement(self, store_url: str, tmp_path: Path) -> None:
        catalog = CATALOG + '[shadow.fields]\nplan = "subscription.teir"\n'
        async with run_system(store_url, tmp_path, catalog=catalog) as system:
            await system.outcome(bought("acme"))
            posted = await system.ask("POST", "/v1/tenants/acme/shadow", {"answer": AGREES})
            assert posted["outcome"] == "not_compared"
            report = await shell(system, "planwire shadow report")
            assert "compared   0, 1 with none of the fields" in report
            assert "plan   0         0" in report


class TestTenants:
    """Scenario 105."""

    async def test_s105_moves_grants_and_erasures_are_made_unseen(self, store_url: str, tmp_path: Path) -> None:
        async with shadowed(store_url, tmp_path) as system, system.tab() as old, system.tab("tenant:b") as new:
            await system.outcome(bought("acme", id="sub_1"))
            grant = {"kind": "feature", "name": "audit", "value": True, "reason": "promised"}
            await system.ask("POST", "/v1/tenants/acme/overrides", grant)
            assert (await system.ask("GET", "/v1/tenants/acme/shadow"))["computed"]["features"]["audit"] is True
            await system.ask("POST", "/v1/shadow/switch", {"tenants": ["b"]})
            await system.outcome(event(ago(40), tenant="b", id="sub_1", current_billing_period=PERIOD, items=BASIC))
            await new.until(lambda tab: tab.plan == "basic")
            await old.fence()
            assert old.state is None
            assert (await system.ask("GET", "/v1/tenants/acme/shadow"))["computed"]["plan"]["key"] == "free"
            await system.ask("POST", "/v1/tenants/acme/shadow", {"answer": AGREES})
            await system.ask("DELETE", "/v1/tenants/acme", {"reason": "asked for"})
            left = await system.ask("GET", "/v1/tenants/acme/shadow")
            assert (left["is_known"], left["computed"], left.get("answered_at")) == (False, None, None)

    async def test_s105_the_console_shows_who_is_seen_and_what_differs(self, store_url: str, tmp_path: Path) -> None:
        async with shadowed(store_url, tmp_path, CONSOLE_TOKEN=f"read:{'r' * 40},private:{TOKEN}") as system:
            for name in ("acme", "b"):
                await system.outcome(bought(name))
            await system.ask("POST", "/v1/shadow/switch", {"tenants": ["b"]})
            await system.ask("POST", "/v1/tenants/acme/shadow", {"answer": {"subscription": {"tier": "basic"}}})
            async with http(system.gateway) as client:
                await login(client)
                report = await get(client, "shadow")
                assert (report["unseen"], report["seen"], report["differing"]) == (1, 1, 1)
                (example,) = report["examples"]
                assert example["differences"] == [{"field": "plan", "here": "pro", "there": "basic"}]
                one = await get(client, "shadow/tenant:acme")
                assert (one["is_seen"], one["computed"]["plan"]["key"], one["compared"]) == (False, "pro", ["plan"])
            async with http(system.gateway) as client:
                await login(client, "r" * 40)
                (hidden,) = (await get(client, "shadow/tenant:acme"))["differences"]
                assert hidden == {"field": "plan"}
            said = await shell(system, "planwire shadow show acme; planwire shadow show b; planwire shadow show c")
            assert "tenant:acme: in the shadow: pages do not see what is computed" in said
            assert "tenant:b: pages see what billing computes" in said
            assert "tenant:c: billing does not know it; its first event makes it unseen" in said
            traced = await shell(system, f"PLANWIRE_CONSOLE_TOKEN={TOKEN} planwire trace acme")
            assert "pages do not see what billing computes: pro, active; 1 fields differ" in traced


class TestStores:
    """Scenario 105, on stores of other kinds."""

    async def test_s105_on_a_cluster(self, tmp_path: Path) -> None:
        with start_cluster(valkey_binary()) as cluster:
            await _switched_and_back(cluster.url, tmp_path)

    @pytest.mark.timeout(90)
    async def test_s105_behind_sentinels_and_after_a_failover(self, tmp_path: Path) -> None:
        with watched_primary(valkey_binary()) as watched:
            async with run_system(watched.url, tmp_path, catalog=CATALOG + MAPPING) as system, system.working():
                await _buy_all(system)
                await asyncio.to_thread(watched.down_after, 400)
                watched.primary.kill()

                async def answered() -> bool:
                    path = "/v1/shadow/switch"
                    response = await system.http.post(path, json={"all": True}, headers=system.key)
                    return bool(response.status_code == 200)

                await until(answered, FAILOVER_S)
                await until(lambda: _is(seen(system), len(NAMES)), 30)


async def _switched_and_back(url: str, tmp_path: Path) -> None:
    async with run_system(url, tmp_path, catalog=CATALOG + MAPPING) as system, system.working():
        await _buy_all(system)
        answers = {"answers": [{"tenant": name, "answer": AGREES} for name in NAMES]}
        await system.ask("POST", "/v1/shadow/answers", answers)
        report = await system.ask("GET", "/v1/shadow")
        assert (report["unseen"], report["compared"], report["differing"]) == (30, 30, 0)
        await shell(system, "planwire shadow switch --all")
        await until(lambda: _is(seen(system), len(NAMES)), 30)
        await shell(system, "planwire shadow switch --all --back")
        await until(lambda: _is(seen(system), 0), 30)


async def _buy_all(system: System) -> None:
    for name in NAMES:
        await system.outcome(bought(name))
    assert await seen(system) == 0


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


async def _holds(system: System, name: str, wanted: int) -> bool:
    return bool((await system.ask("GET", "/v1/shadow"))[name] == wanted)
