"""What backends and operators do with one tenant over HTTP, with the simulator as the provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from sync import intake
from sync.billing.budget import Budget
from sync.billing.pipeline import Pipeline
from sync.billing.providers.paddle import Paddle as Adapter
from sync.billing.providers.paddle_api import PaddleApi
from sync.billing.shelf import EXAMPLE, Shelf
from sync.settings import SyncSettings
from sync.state.store import Change, Store
from tests.support.paddle import KEY, Paddle, price_id, simulating
from tests.support.servers import Server

SETTINGS = SyncSettings.from_env({})


@pytest.fixture
async def paddle(tmp_path: Path) -> AsyncIterator[Paddle]:
    async with simulating(tmp_path) as paddle:
        yield paddle


@pytest.fixture
async def api(paddle: Paddle) -> AsyncIterator[PaddleApi]:
    api = paddle.api()
    yield api
    await api.aclose()


@pytest.fixture
def pipeline(store: Store, api: PaddleApi) -> Pipeline:
    return Pipeline(store, Shelf(EXAMPLE), {"paddle": Adapter()}, {("paddle", "live"): api})


async def let_in(request: Request) -> Response | None:
    return None if request.headers.get("authorization") == "Bearer key" else Response(status_code=401)


@asynccontextmanager
async def desk_of(pipeline: Pipeline, key: str = "key") -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(Starlette(routes=intake.routes(pipeline, SETTINGS, let_in)))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://desk", headers=headers) as client:
        yield client


@pytest.fixture
async def desk(pipeline: Pipeline) -> AsyncIterator[httpx2.AsyncClient]:
    async with desk_of(pipeline) as client:
        yield client


async def tell(pipeline: Pipeline, paddle: Paddle) -> None:
    """Deliver every event of a subscription, in order."""
    for body in await paddle.events():
        if json.loads(body)["event_type"].startswith("subscription."):
            await pipeline.receive(pipeline.adapters["paddle"], body, "live")


async def state(store: Store, topic: str = "tenant:acme") -> Any:
    return orjson.loads((await store.read(topic)).state)


def problem(response: httpx2.Response, status: int, code: str) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code), document
    return str(document["detail"])


class TestReconcile:
    """Compare, repair, and see what drifted."""

    async def test_it_repairs_and_tells(
        self, desk: httpx2.AsyncClient, paddle: Paddle, pipeline: Pipeline, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro", quantity=2)
        await tell(pipeline, paddle)
        await paddle.act("downgrade", plan="basic")
        answer = (await desk.post("/v1/tenants/acme/reconcile")).json()
        version = (await store.read("tenant:acme")).version
        assert (answer["outcome"], answer["version"], answer["asked"]) == ("applied", version, 1)
        assert (await state(store))["plan"]["key"] == "basic"
        listed = (await desk.get("/v1/drift")).json()
        assert listed["drift"] == answer["drift"]
        assert listed["drift"][0]["there"] == {"items": [[price_id("basic"), 2]]}
        assert listed["counts"] == {
            "differs": 1,
            "unknown_here": 0,
            "unknown_there": 0,
            "missed_event": 0,
            "preview": 0,
        }
        assert (await desk.post("/v1/tenants/acme/reconcile")).json()["outcome"] == "unchanged"

    async def test_the_list_goes_by_pages(self, desk: httpx2.AsyncClient, paddle: Paddle, pipeline: Pipeline) -> None:
        for number in range(3):
            await paddle.act("upgrade", tenant=f"t{number}", plan="pro")
            assert (await desk.post(f"/v1/tenants/t{number}/reconcile")).json()["outcome"] == "applied"
        first = (await desk.get("/v1/drift?limit=2")).json()
        second = (await desk.get("/v1/drift", params={"limit": 2, "before": first["next"]})).json()
        assert [entry["topic"] for entry in first["drift"] + second["drift"]] == ["tenant:t2", "tenant:t1", "tenant:t0"]
        assert "next" not in second

    async def test_nobody_to_ask(self, store: Store, paddle: Paddle) -> None:
        async with desk_of(Pipeline(store, Shelf(EXAMPLE), {"paddle": Adapter()})) as desk:
            assert "no API key" in problem(await desk.post("/v1/tenants/acme/reconcile"), 503, "provider_unavailable")
        gone = PaddleApi("live", KEY, "http://127.0.0.1:9", Budget(100), timeout_s=1)
        pipeline = Pipeline(store, Shelf(EXAMPLE), {"paddle": Adapter()}, {("paddle", "live"): gone})
        await paddle.act("upgrade", plan="pro")
        await tell(pipeline, paddle)
        async with desk_of(pipeline) as desk:
            problem(await desk.post("/v1/tenants/acme/reconcile"), 503, "provider_unavailable")
            problem(await desk.post("/v1/tenants/nobody/reconcile"), 503, "provider_unavailable")
        await gone.aclose()

    async def test_what_is_no_tenant_s_is_left_alone(self, desk: httpx2.AsyncClient, store: Store) -> None:
        await store.commit(Change("tenant:acme", b'{"own":1}', b'{"own":2}'))
        answer = (await desk.post("/v1/tenants/acme/reconcile")).json()
        assert (answer["outcome"], await state(store)) == ("unchanged", {"own": 1})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/tenants/no%20id/reconcile"),
        ("POST", "/v1/tenants/acme/reconcile?env=moon"),
        ("GET", "/v1/drift?limit=0"),
        ("GET", "/v1/drift?before=x"),
        ("GET", "/v1/drift?env=moon"),
    ],
)
async def test_bad_questions_are_refused(desk: httpx2.AsyncClient, method: str, path: str) -> None:
    problem(await desk.request(method, path), 422, "request_invalid")


async def test_the_guard_decides(pipeline: Pipeline) -> None:
    routes: Any = intake.routes(pipeline, SETTINGS, let_in)
    async with desk_of(pipeline, "wrong") as desk:
        for route in routes:
            path = route.path.replace("{id}", "acme").replace("{event_id}", "x").replace("{preview_id}", "x")
            for method in route.methods - {"HEAD"}:
                assert (await desk.request(method, path)).status_code == 401, path


async def test_a_store_that_is_away_is_told(pipeline: Pipeline, desk: httpx2.AsyncClient, valkey: Server) -> None:
    valkey.kill()
    problem(await desk.get("/v1/drift"), 503, "store_unavailable")
    problem(await desk.post("/v1/tenants/acme/reconcile"), 503, "store_unavailable")
