"""Billing runs beside an entitlement system that exists: pages see nothing of it until their tenant is switched."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sync.store.models import ABSENT
from tests.support.asgi import serving
from tests.support.gateway import PUBLISH_KEY
from tests.support.system import CATALOG, System, ago, event, run_system
from tests.support.wait import until

MAPPING = """
[shadow]
ignore = ["features.basic"]

[shadow.fields]
plan = "subscription.tier"
status = "subscription.state"
features = "flags"
"limits.seats" = "quota.seats"
"period.ends_at" = "renews_on"

[shadow.values]
plan = { gold = "pro" }
status = { live = "active" }
features = { single_sign_on = "sso" }
"""
PRO, BASIC = [("pri_pro", 3)], [("pri_basic", 3)]
PERIOD = {"starts_at": ago(86_400), "ends_at": ago(-86_400)}
AGREES: dict[str, Any] = {
    "subscription": {"tier": "GOLD", "state": "Live"},
    "flags": ["export", "single_sign_on"],
    "quota": {"seats": "3"},
    "renews_on": PERIOD["ends_at"],
}
DIFFERS: dict[str, Any] = {**AGREES, "subscription": {"tier": "Basic", "state": None}, "quota": {"seats": 5}}
TOKEN = "shadow-token"


@asynccontextmanager
async def shadowed(store_url: str, tmp_path: Path, **settings: str) -> AsyncIterator[System]:
    async with run_system(store_url, tmp_path, catalog=CATALOG + MAPPING, **settings) as system:
        yield system


def bought(tenant: str, age_s: int = 60, **fields: Any) -> bytes:
    return event(ago(age_s), tenant=tenant, **{"items": PRO, "current_billing_period": PERIOD, **fields})


class TestSwitch:
    """Scenario 90."""

    async def test_s90_nothing_reaches_pages_until_the_switch_and_again_after_the_switch_back(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with shadowed(store_url, tmp_path) as system, system.tab() as tab:
            assert await system.outcome(bought("acme")) == "applied"
            assert await system.outcome(bought("acme", 50, status="past_due")) == "applied"
            await tab.fence()
            assert (tab.version, tab.state) == (0, None)
            assert (await system.read())["state"] is None
            assert await system.history() == []
            status = await system.ask("GET", "/v1/tenants/acme/status")
            assert (status["store"]["state"], status["store"]["computed"]["status"]) == (None, "past_due")
            answer = await system.ask("POST", "/v1/shadow/switch", {"tenants": ["acme"], "reason": "checked"})
            await tab.until(lambda tab: tab.plan == "pro")
            assert answer["tenants"][0]["version"] == tab.version
            assert tab.state["status"] == "past_due"
            assert (tab.cause["event_type"], tab.cause["reason"]) == ("shadow.switched", "checked")
            await system.apply(bought("acme", 40))
            await tab.until(lambda tab: tab.state["status"] == "active")
            await system.ask("POST", "/v1/shadow/switch", {"tenants": ["acme"], "back": True})
            await tab.until(lambda tab: tab.state is None)
            assert await system.outcome(bought("acme", 30, items=BASIC)) == "applied"
            await tab.fence()
            assert tab.state is None
            await system.ask("POST", "/v1/shadow/switch", {"tenants": ["acme"]})
            await tab.until(lambda tab: tab.plan == "basic")

    async def test_s90_what_the_old_system_publishes_stays_on_the_pages(self, store_url: str, tmp_path: Path) -> None:
        old = {"plan": {"key": "old"}}
        async with shadowed(store_url, tmp_path) as system, system.tab() as tab:
            await system.ask("POST", "/v1/publish", {"topic": "tenant:acme", "state": old})
            assert await system.outcome(bought("acme")) == "applied"
            newer = {"plan": {"key": "newer"}}
            await system.ask("POST", "/v1/publish", {"topic": "tenant:acme", "state": newer})
            await tab.until(lambda tab: tab.plan == "newer")
            await tab.fence()
            assert {state["plan"]["key"] for _, state in tab.shown if state} <= {"old", "newer"}
            await system.ask("POST", "/v1/shadow/switch", {"tenants": ["acme"]})
            await tab.until(lambda tab: tab.plan == "pro")
            published = {"topic": "tenant:acme", "state": {"plan": {"key": "newest"}}}
            refused = await system.http.post("/v1/publish", json=published, headers=system.key)
            assert refused.json()["code"] == "topic_is_billed"
            await system.ask("POST", "/v1/shadow/switch", {"tenants": ["acme"], "back": True})
            await tab.until(lambda tab: tab.plan == "newest")

    async def test_s90_a_share_and_all_are_switched_by_the_worker(self, store_url: str, tmp_path: Path) -> None:
        names = [f"t{number}" for number in range(12)]
        async with shadowed(store_url, tmp_path) as system, system.working():
            for name in names:
                await system.outcome(bought(name))

            async def seen() -> set[str]:
                found = await system.store.read_many([f"tenant:{name}" for name in names])
                return {one.topic for one in found if one.state != ABSENT}

            await shell(system, "planwire shadow switch --share 40%")
            await until(lambda: _is(seen, lambda found: 0 < len(found) < 12), 20)
            await shell(system, "planwire shadow switch --all")
            await until(lambda: _is(seen, lambda found: len(found) == 12), 20)
            await shell(system, "planwire shadow switch --all --back")
            await until(lambda: _is(seen, lambda found: not found), 20)


async def _is(read: Any, holds: Any) -> bool:
    return bool(holds(await read()))


class TestComparison:
    """Scenario 91."""

    async def test_s91_posted_answers_are_compared_and_reported(self, store_url: str, tmp_path: Path) -> None:
        async with shadowed(store_url, tmp_path) as system:
            for name in ("acme", "b"):
                await system.outcome(bought(name))
            equal = await system.ask("POST", "/v1/tenants/b/shadow", {"answer": AGREES})
            assert (equal["outcome"], equal["differences"]) == ("equal", [])
            assert set(equal["compared"]) == {
                *("plan", "status", "features.export", "features.sso", "limits.seats", "period.ends_at")
            }
            posted = {"answers": [{"tenant": "acme", "answer": DIFFERS}, {"tenant": "auth0|9", "answer": AGREES}]}
            both = (await system.ask("POST", "/v1/shadow/answers", posted))["results"]
            assert both[0]["differences"] == [
                {"field": "plan", "here": "pro", "there": "basic"},
                {"field": "limits.seats", "here": 3, "there": 5},
            ]
            assert both[1]["topic"] == "tenant:auth0%7C9"
            report = json.loads(await shell(system, "planwire shadow report --json"))
            assert (report["compared"], report["differing"]) == (3, 2)
            assert report["fields"]["plan"] == {"compared": 3, "differing": 2}
            assert report["plans"] == {"free": 1, "pro": 1}
            assert [one["topic"] for one in report["examples"]] == ["tenant:auth0%7C9", "tenant:acme"]
            text = await shell(system, "planwire shadow report")
            assert "differing  2" in text
            assert "limits.seats" in text
            drift = await system.ask("GET", "/v1/drift")
            assert drift["counts"]["shadow"] == 2
            metrics = (await system.http.get("/metrics")).text
            assert 'planwire_shadow_comparisons_total{env="live",result="differs"} 2.0' in metrics
            assert 'planwire_shadow_differences_total{env="live",field="limits"} 2.0' in metrics

    async def test_s91_fetched_answers_are_compared_after_each_event(self, store_url: str, tmp_path: Path) -> None:
        asked: list[tuple[str, str | None]] = []
        answers: dict[str, Any] = {"acme": AGREES, "auth0|9": DIFFERS}

        async def answer(request: Request) -> Response:
            name = request.path_params["tenant"]
            asked.append((name, request.headers.get("authorization")))
            if name == "moved":
                return RedirectResponse("/plans/acme")
            return JSONResponse(answers.get(name, {}), 200 if name in answers else 404)

        app = Starlette(routes=[Route("/plans/{tenant}", answer)])
        async with serving(app) as url:
            settings = {"SHADOW_URL": f"{url}/plans/{{tenant}}", "SHADOW_TOKEN": TOKEN, "SHADOW_RATE_PER_S": "100"}
            async with shadowed(store_url, tmp_path, **settings) as system, system.working(shadow_pause_s=0.0):
                for name in ("moved", "unknown", "acme", "auth0|9"):
                    await system.outcome(bought(name, customer_id=None, id=f"sub_{len(name)}{name[0]}"))

                async def report() -> dict[str, Any]:
                    return await system.ask("GET", "/v1/shadow")

                async def compared() -> bool:
                    return bool((await report())["compared"] == 2)

                await until(compared, 20)
                found = await report()
                assert (found["differing"], found["absent"]) == (1, 1)
                assert [name for name, of in found["fields"].items() if of["differing"]] == ["limits.seats", "plan"]
                assert found["problem"]["reason"] == "status 307: redirects are not followed"
                assert {token for _, token in asked} == {f"Bearer {TOKEN}"}
                answers["auth0|9"] = AGREES
                await system.outcome(bought("auth0|9", 20, customer_id=None, id="sub_7a"))

                async def agrees() -> bool:
                    return bool((await report())["differing"] == 0)

                await until(agrees, 20)
                assert await system.state("tenant:acme") is None

    async def test_s91_the_steps_of_the_docs_are_right(self, store_url: str, tmp_path: Path) -> None:
        page = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text()
        (mapping,) = re.findall(r"```toml\n(.*?)```", page, re.S)
        steps = re.findall(r"```sh\n(.*?)```", page, re.S)
        catalog = f"{CATALOG}\n{mapping}"
        async with run_system(store_url, tmp_path, catalog=catalog) as system, system.working(), system.tab() as tab:
            for name in ("acme", "globex"):
                await system.outcome(bought(name, items=PRO if name == "acme" else BASIC))
            said = [await shell(system, step) for step in steps]
            posted, report, switched, back, retired = said
            assert '"outcome":"equal"' in posted
            assert "compared   3\n" in report
            assert '"differing":0' in report.replace(" ", "")
            assert "tenant:acme  applied" in switched
            assert "the worker brings" in back
            assert "the worker brings" in retired
            await tab.until(lambda tab: tab.plan == "pro")


async def shell(system: System, script: str) -> str:
    """What a script of the docs prints; each of its commands succeeds."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environ = {"PATH": path, "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY, "PLANWIRE": system.gateway.url}
    environ["PORT"] = str(system.gateway.port)
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    return output.decode()
