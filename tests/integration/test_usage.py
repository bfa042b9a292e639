"""Usage over HTTP and in open pages: counted against the newest entitlements, announced, restored after a loss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from planwire_client.core.commit import BILLING
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.integration.test_usage_calls import CATALOG
from tests.support.gateway import PUBLISH_KEY, Client, Running, environment, open_client, run_gateway, token
from tests.support.servers import Server, start_valkey
from tests.support.wait import until

KEY = {"Authorization": f"Bearer {PUBLISH_KEY}"}
PERIOD = {"starts_at": "2026-11-15T00:00:00Z", "ends_at": "2036-11-15T00:00:00Z"}


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


@asynccontextmanager
async def gateway(server: Server, tmp_path: Path, **settings: str) -> AsyncIterator[Running]:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    own = {"INTAKE": "1", "CATALOG": str(path), "PADDLE_SECRETS": "live:pdl_ntfset_x", "SWEEP_S": "0.5"}
    environ = environment(server.url, **(own | settings))
    async with run_gateway(environ) as running:
        yield running


@pytest.fixture
async def running(server: Server, tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(server, tmp_path) as running:
        yield running


async def ask(running: Running, path: str, body: object = None, status: int = 200, tenant: str = "acme") -> Any:
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        path = f"/v1/tenants/{tenant}/usage{path}"
        answer = await (http.get(path) if body is None else http.post(path, json=body))
    assert answer.status_code == status, answer.text
    return answer.json()


async def entitle(store: Store, **limits: int | str) -> int:
    state = {"plan": {"key": f"p{len(limits)}"}, "status": "active", "limits": limits, "period": PERIOD}
    return (await store.commit(Change("tenant:acme", orjson.dumps(state), owner=BILLING))).version


async def shown(client: Client, meter: str = "api_calls", **expected: object) -> dict[str, Any]:
    """Return the first state of the usage topic whose meter has these members."""
    while True:
        frame = await client.receive()
        if frame["type"] == "snapshot" and frame["state"] is not None:
            found = frame["state"]["meters"][meter]
            if expected.items() <= found.items():
                state: dict[str, Any] = frame["state"]
                return state


async def test_an_open_page_sees_what_is_used(running: Running, store: Store) -> None:
    version = await entitle(store, api_calls=10)
    async with open_client(running, "usage:acme", jwt=token("tenant:acme")) as client:
        state = await shown(client, used=0, limit=10)
        assert state["entitlements"] == version
        answer = await ask(running, "/api_calls/consume", {"amount": 3})
        assert (answer["allowed"], answer["remaining"], answer["resets_at"]) == (True, 7, "2036-11-15T00:00:00.000000Z")
        await shown(client, used=3, remaining=7)
        for _ in range(6):
            await ask(running, "/api_calls/consume", {})
        assert (await shown(client, used=9))["meters"]["api_calls"]["status"] == "near"
        up = await entitle(store, api_calls=1000)
        state = await shown(client, used=9, limit=1000)
        assert state["entitlements"] == up


async def test_a_page_sees_a_new_limit_though_nothing_is_used(running: Running, store: Store) -> None:
    async with open_client(running, "usage:acme", jwt=token("tenant:acme")) as client:
        assert (await shown(client, limit=3))["entitlements"] == 0
        await entitle(store, api_calls=50)
        await shown(client, limit=50)


async def test_a_token_of_another_tenant_opens_no_usage(running: Running) -> None:
    async with open_client(running, "usage:acme", jwt=token("tenant:other")) as client:
        frame = await client.until("error")
        assert (frame["code"], frame["topic"]) == ("forbidden", "usage:acme")


async def test_nobody_publishes_usage(running: Running) -> None:
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        answer = await http.post("/v1/publish", json={"topic": "usage:acme", "state": {}})
    assert (answer.status_code, answer.json()["code"]) == (403, "topic_reserved")


async def test_operations_over_http(running: Running, store: Store) -> None:
    await entitle(store, api_calls=10, seats=8, ai=5)
    await ask(running, "/seats/set", {"amount": 8})
    assert (await ask(running, "/seats/consume", {}))["allowed"] is False
    assert (await ask(running, "/seats/release", {"amount": 2, "key": "k"}))["used"] == 6
    assert (await ask(running, "/seats/release", {"amount": 2, "key": "k"}))["repeated"] is True
    assert (await ask(running, "/api_calls/reserve", {"amount": 4, "id": "job-1"}))["reserved"] == 4
    assert (await ask(running, "/api_calls/finalize", {"id": "job-1", "amount": 1}))["used"] == 1
    await ask(running, "/ai/grant", {"amount": 10, "reason": "goodwill"})
    assert (await ask(running, "/ai/adjust", {"by": 2, "reason": "a job that failed"}))["remaining"] == 13
    found = await ask(running, "")
    assert {name: meter["used"] for name, meter in found["meters"].items() if meter["used"]} == {
        "ai": 2,
        "api_calls": 1,
        "seats": 6,
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/nope/consume", {}, 404, "meter_unknown"),
        ("/api_calls/consume", {"amount": 0}, 422, "request_invalid"),
        ("/api_calls/consume", {"amount": 1, "kee": "x"}, 422, "request_invalid"),
        ("/api_calls/set", {"amount": 1}, 422, "not_for_meter"),
        ("/api_calls/grant", {"amount": 1, "reason": "x"}, 422, "not_for_meter"),
        ("/api_calls/adjust", {"reason": "x"}, 422, "request_invalid"),
        ("/api_calls/adjust", {"to": 1}, 422, "request_invalid"),
        ("/api_calls/reserve", {"amount": 1}, 422, "request_invalid"),
        ("/ai/grant", {"amount": 1, "reason": "x", "ends_at": "2026-01-01T00:00:00Z"}, 422, "request_invalid"),
    ],
)
async def test_wrong_calls_say_what_to_do(running: Running, path: str, body: object, status: int, code: str) -> None:
    assert (await ask(running, path, body, status))["code"] == code


async def test_a_batch_answers_each_call(running: Running, store: Store) -> None:
    await entitle(store, api_calls=2)
    calls = [
        {"tenant": "acme", "meter": "api_calls"},
        {"tenant": "acme", "meter": "api_calls", "amount": 5},
        {"tenant": "acme", "meter": "nope"},
        {"tenant": "undefined", "meter": "api_calls"},
        {"tenant": "other", "meter": "seats", "operation": "set", "amount": 1},
    ]
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        answer = await http.post("/v1/usage/batch", json={"calls": calls})
    results = answer.json()["results"]
    assert [one.get("allowed", one.get("code")) for one in results] == [
        True,
        False,
        "meter_unknown",
        "request_invalid",
        True,
    ]


async def test_what_the_store_has_lost_comes_back_from_a_page_s_gateway(
    running: Running, store: Store, server: Server
) -> None:
    """The store goes back, and counts on before any gateway has looked at it."""
    await entitle(store, api_calls=10)
    async with open_client(running, "usage:acme", jwt=token("tenant:acme")) as client:
        await ask(running, "/api_calls/consume", {"amount": 1})
        await shown(client, used=1)
        kept = {key: await store.redis.dump(key) async for key in store.redis.scan_iter("*")}
        await ask(running, "/api_calls/consume", {"amount": 7})
        await shown(client, used=8)
        await store.redis.flushall()
        for key, value in kept.items():
            assert isinstance(value, bytes)
            await store.redis.restore(key, 0, value)
        await ask(running, "/api_calls/consume", {"amount": 1})
        await shown(client, used=8, remaining=2)

        async def is_counted() -> bool:
            return bool((await ask(running, ""))["meters"]["api_calls"]["used"] == 8)

        await until(is_counted)
