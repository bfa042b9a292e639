"""The demo's back end: what it counts, and what it answers to wrong requests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from gateway.dev.run import CATALOG
from tests.support.gateway import environment, run_gateway
from tests.support.servers import Server, start_valkey


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


async def test_a_click_counts_until_the_limit(server: Server) -> None:
    intake = {"INTAKE": "1", "CATALOG": str(CATALOG), "PADDLE_SECRETS": "live:pdl_ntfset_x"}
    async with (
        run_gateway(environment(server.url, DEV="1", **intake)) as running,
        httpx2.AsyncClient(base_url=running.url) as http,
    ):
        click = {"tenant": "Zo\u00eb|1", "meter": "api_calls", "operation": "consume", "amount": 15}
        answers = [(await http.post("/demo/use", json=click)).json() for _ in range(2)]
        assert answers == [{"allowed": True, "remaining": 5}, {"allowed": False, "remaining": 5}]
        answer = await http.post("/demo/use", json=click | {"operation": "release"})
        assert answer.json() == {"allowed": True, "remaining": 20}
        for wrong, status, code in (
            ({"meter": "api_call"}, 404, "meter_unknown"),
            ({"meter": None}, 422, "request_invalid"),
            ({"operation": "adjust"}, 422, "request_invalid"),
            ({"operation": ["consume"]}, 422, "request_invalid"),
            ({"amount": 0}, 422, "request_invalid"),
            ({"amount": True}, 422, "request_invalid"),
            ({"amount": 1e300}, 422, "request_invalid"),
            ({"tenant": "undefined"}, 422, "request_invalid"),
            ({"tenant": None}, 422, "request_invalid"),
        ):
            answer = await http.post("/demo/use", json=click | wrong)
            assert (answer.status_code, answer.json()["code"]) == (status, code), wrong
        answer = await http.post("/demo/use", json=click, headers={"Origin": "https://elsewhere.example"})
        assert answer.json()["code"] == "origin_forbidden"


async def test_a_process_without_an_intake_says_so(server: Server) -> None:
    async with (
        run_gateway(environment(server.url, DEV="1")) as running,
        httpx2.AsyncClient(base_url=running.url) as http,
    ):
        click = {"tenant": "demo", "meter": "api_calls", "operation": "consume", "amount": 1}
        answer = await http.post("/demo/use", json=click)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "PLANWIRE_INTAKE" in answer.json()["detail"]


async def test_the_address_of_the_page_keeps_its_tenant(server: Server) -> None:
    async with (
        run_gateway(environment(server.url, DEV="1")) as running,
        httpx2.AsyncClient(base_url=running.url) as http,
    ):
        assert (await http.get("/demo?tenant=free")).headers["location"] == "demo/?tenant=free"
        assert (await http.get("/demo")).headers["location"] == "demo/"
        assert (await http.get("/demo?//evil.example/")).headers["location"] == "demo/?//evil.example/"
