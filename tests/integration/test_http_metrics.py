"""What the metrics say about HTTP is what was answered: a stream's refusal, the process's own errors, each once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import httpx2
import pytest

from tests.support.gateway import MAX_WAIT_S, Running, environment, run_gateway, token
from tests.support.wait import until

TOPIC = "tenant:acme"
STATE, EVENTS = "/v1/state/{topic:path}", "/v1/state/{topic:path}/events"


def counted(running: Running, route: str) -> dict[int, int]:
    return {key[2]: count for key, count in running.node.metrics.requests.items() if key[0] == route}


def reader(running: Running) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {token()}"}
    return httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=MAX_WAIT_S, trust_env=False)


async def test_a_stream_is_counted_as_it_is_answered(store_url: str) -> None:
    async with run_gateway(environment(store_url, STREAMS_PER_SUBJECT="1")) as running, AsyncExitStack() as stack:
        client = await stack.enter_async_context(reader(running))
        stream = await stack.enter_async_context(client.stream("GET", f"/v1/state/{TOPIC}/events"))
        assert stream.status_code == 200
        assert (await client.get(f"/v1/state/{TOPIC}/events")).status_code == 429
        assert counted(running, EVENTS).get(429) == 1
        await stack.aclose()
        await until(lambda: counted(running, EVENTS) == {200: 1, 429: 1})


@pytest.mark.parametrize("path", [f"/v1/state/{TOPIC}", f"/v1/state/{TOPIC}/events"])
async def test_an_error_of_the_process_itself_is_counted(
    store_url: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_gateway(environment(store_url)) as running, reader(running) as client:
        assert (await client.get(f"/v1/state/{TOPIC}")).status_code == 200

        def broken(*_: object) -> None:
            raise RuntimeError("unforeseen")

        monkeypatch.setattr(running.node.store, "read", broken)
        monkeypatch.setattr(running.node.hub, "reader", broken)
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        found = counted(running, EVENTS if path.endswith("events") else STATE)
        assert found == ({500: 1} if path.endswith("events") else {200: 1, 500: 1})


async def test_refusals_and_failures_are_counted_once(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, reader(running) as client:
        assert (await client.get("/v1/state/nonsense")).status_code == 422
        assert (await client.post("/v1/publish", json={})).status_code == 401
        assert (await client.get("/v1/openapi.json")).status_code == 200
        assert counted(running, STATE) == {422: 1}
        assert counted(running, "/v1/publish") == {401: 1}
        assert counted(running, "/v1/openapi.json") == {200: 1}


async def test_who_is_gone_before_an_answer_is_not_counted(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, reader(running) as client:
        waiting = asyncio.create_task(client.get(f"/v1/state/{TOPIC}?min_version=99999999&wait_ms=30000"))
        await until(lambda: running.node.metrics.streams == 1)
        waiting.cancel()
        await until(lambda: running.node.metrics.streams == 0)
        assert (await client.get(f"/v1/state/{TOPIC}")).status_code == 200
        assert counted(running, STATE) == {200: 1}
