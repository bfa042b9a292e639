"""The bundled scenarios: the gateway comes through all of them, and receivers with the usual mistakes are caught."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from paddle_billing.Notifications import Secret, Verifier
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sync.billing.catalog import catalog
from sync.billing.catalog.watcher import EXAMPLE
from sync.simulator.scenarios import torture as running
from sync.simulator.scenarios.scenario import BUNDLED, Faults, Scenario, load
from sync.simulator.scenarios.torture import Report, http_state, torture
from tests.support.asgi import serving
from tests.support.gateway import environment, run_gateway, token
from tests.support.servers import free_port

CATALOG = catalog.load(EXAMPLE)
SECRET = "pdl_ntfset_live"
PLANS = {
    price_id: plan for plan in CATALOG.plans.values() for price_id in plan.prices.get("paddle", {}).get("live", ())
}


@dataclass
class Naive:
    """A receiver as many are: the last delivery wins, whichever subscription it is of. Its mistakes are switches."""

    verifies: bool = True
    tolerates_s: int = 300
    fails: int = 0
    refuses: int = 0
    states: dict[str, Any] = field(default_factory=dict)

    async def take(self, request: Request) -> Response:
        body = await request.body()
        if self.fails:
            self.fails -= 1
            return Response(status_code=503)
        if self.refuses:
            self.refuses -= 1
            return JSONResponse({"code": "nope"}, 400)
        received = SimpleNamespace(body=body, headers=request.headers)
        drifts = self.tolerates_s > 0
        if self.verifies and not Verifier(self.tolerates_s).verify(received, Secret(SECRET), verify_time_drift=drifts):
            return JSONResponse({"code": "signature_invalid"}, 403)
        event = json.loads(body)
        if event["event_type"].startswith("subscription."):
            data = event["data"]
            is_live = data["status"] in ("active", "trialing", "past_due")
            plan = next((PLANS[i["price"]["id"]].key for i in data["items"] if i["price"]["id"] in PLANS), "free")
            state: dict[str, Any] = {"plan": {"key": plan if is_live else "free"}, "status": data["status"]}
            if is_live and data["status"] != "past_due":
                state["period"] = data["current_billing_period"]
            if is_live and data["scheduled_change"]:
                state["scheduled"] = data["scheduled_change"]
            self.states[f"tenant:{data['custom_data']['tenant_id']}"] = state
        return JSONResponse({"outcome": "applied"})

    async def read(self, topic: str) -> Any:
        return self.states.get(topic)


@asynccontextmanager
async def receiving(naive: Naive) -> AsyncIterator[str]:
    app = Starlette(routes=[Route("/hook", naive.take, methods=["POST"])])
    async with serving(app) as url:
        yield f"{url}/hook"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CONVERGE_S", 3.0)
    monkeypatch.setattr(running, "RETRY_FIRST_S", 0.01)


async def run(naive: Naive, name: str, change: Callable[[Scenario], Scenario] = lambda s: s) -> Report:
    async with receiving(naive) as url:
        return await torture(change(load(name)), 1, url, SECRET, CATALOG, naive.read)


def in_order(given: Scenario) -> Scenario:
    return replace(given, faults=Faults(), parallel=1)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", BUNDLED)
async def test_the_gateway_comes_through(store_url: str, name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is not kept waiting for: what is looked for is where it ends, on a machine that may stand still meanwhile.
    monkeypatch.setattr(running, "CONVERGE_S", 30.0)
    environ = environment(store_url, INTAKE="1", PADDLE_SECRETS=f"live:{SECRET}", CATALOG=str(EXAMPLE))
    async with run_gateway(environ) as gateway:
        report = await torture(
            load(name), seed, f"{gateway.url}/webhooks/paddle", SECRET, CATALOG, http_state(gateway.url, token())
        )

    assert report.violations == []
    assert not report.unread


async def test_without_faults_even_a_naive_receiver_is_right() -> None:
    report = await run(Naive(), "reorder", in_order)

    assert report.is_ok, report.lines()
    assert report.retries == 0


@pytest.mark.parametrize("name", ["reorder", "late", "drop", "outage"])
async def test_a_receiver_that_trusts_the_order_is_caught(name: str) -> None:
    report = await run(Naive(), name)

    assert any("ends at" in violation for violation in report.violations)


async def test_a_receiver_that_does_not_verify_is_caught() -> None:
    report = await run(Naive(verifies=False), "torture")

    assert any(violation.startswith("a forged ") for violation in report.violations)


async def test_a_receiver_that_ignores_time_is_caught() -> None:
    report = await run(Naive(tolerates_s=0), "skew")

    assert any(violation.startswith("a stale ") for violation in report.violations)


async def test_a_receiver_that_refuses_a_genuine_delivery_is_caught() -> None:
    report = await run(Naive(refuses=1), "reorder", in_order)

    assert any(v.startswith("a genuine ") and v.endswith("400 nope") for v in report.violations)


async def test_a_receiver_that_is_down_for_a_moment_is_asked_again() -> None:
    report = await run(Naive(fails=5), "reorder", in_order)

    assert report.is_ok, report.lines()
    assert (report.retries, report.answers["503"]) == (5, 5)


async def test_a_receiver_that_stays_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RETRIES", 1)
    one = Scenario("One", tenants=1, history=({"do": "upgrade"},))

    report = await torture(one, 1, f"http://127.0.0.1:{free_port()}/hook", SECRET, CATALOG)

    assert [violation.endswith("was never taken: ConnectError") for violation in report.violations] == [True] * 3
    assert report.unread


def test_a_blocking_caller_gets_the_report_too() -> None:
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "RETRIES", 0)
        report = asyncio.run(torture(load("duplicate"), 3, f"http://127.0.0.1:{free_port()}/hook", SECRET, CATALOG))

    assert report.seed == 3
    assert len(report.violations) == report.sends
    assert time.monotonic() - began < 20
