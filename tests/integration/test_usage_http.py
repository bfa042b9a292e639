"""Usage over HTTP beyond a single call: batches, durable answers, metrics, and what is answered without the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.integration.test_usage import KEY, ask, entitle, gateway
from tests.integration.test_usage_calls import CATALOG
from tests.support.gateway import Running, environment, run_gateway
from tests.support.servers import Server, start_valkey


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


@pytest.fixture
async def running(server: Server, tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(server, tmp_path) as running:
        yield running


async def ask_batch(running: Running, calls: list[dict[str, Any]], status: int = 200) -> Any:
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        answer = await http.post("/v1/usage/batch", json={"calls": calls})
    assert answer.status_code == status, answer.text
    return answer.json()["results"] if status == 200 else answer.json()


async def test_a_batch_reserves_and_finalizes_in_order(running: Running, store: Store) -> None:
    await entitle(store, api_calls=10)
    calls: list[dict[str, Any]] = [
        {"tenant": "acme", "meter": "api_calls", "operation": "reserve", "id": "job", "amount": 9},
        {"tenant": "acme", "meter": "api_calls", "amount": 2},
        {"tenant": "acme", "meter": "api_calls", "operation": "finalize", "id": "job", "amount": 3},
        {"tenant": "acme", "meter": "api_calls", "amount": 2},
        {"tenant": "acme", "meter": "api_calls", "operation": "release"},
    ]
    results = await ask_batch(running, calls)
    assert [(one["allowed"], one["used"], one["reserved"]) for one in results] == [
        (True, 0, 9),
        (False, 0, 9),
        (True, 3, 0),
        (True, 5, 0),
        (True, 4, 0),
    ]


async def test_a_malformed_call_of_a_batch_has_its_own_result(running: Running) -> None:
    good = {"tenant": "acme", "meter": "api_calls"}
    bad: list[tuple[Any, str]] = [
        ({"tenant": "acme", "meter": 5}, "meter must be a string"),
        ({**good, "amount": 1.5}, "amount must be an integer from 0 to 1000000000000"),
        ({**good, "key": "a\n"}, "key: it has 1 to 200 printable ASCII characters, and no blank"),
        ({**good, "key": ""}, "key: it has 1 to 200 printable ASCII characters, and no blank"),
        ({**good, "key": 7}, "key must be a string"),
        ({**good, "key": "a b"}, "key: it has 1 to 200 printable ASCII characters, and no blank"),
        ({**good, "keys": "a"}, "keys is not known here"),
        ({"meter": "api_calls"}, "tenant is missing"),
        ({**good, "tenant": " "}, "tenant: "),
        ("acme", "the body must be an object"),
        (None, "the body must be an object"),
    ]
    results = await ask_batch(running, [good, *(item for item, _ in bad), good])
    assert [results[0]["used"], results[-1]["used"]] == [1, 2]
    for found, (item, says) in zip(results[1:-1], bad, strict=True):
        assert found["code"] == "request_invalid", item
        assert says in found["detail"], found["detail"]
        assert "allowed" not in found
    assert (await ask_batch(running, "acme", 422))["code"] == "request_invalid"  # type: ignore[arg-type]
    assert (await ask_batch(running, [good] * 501, 422))["code"] == "request_invalid"
    assert (await ask(running, "/api_calls"))["used"] == 2


async def test_the_key_of_a_call_is_not_that_of_a_reservation(running: Running) -> None:
    await ask(running, "/api_calls/consume", {"amount": 1, "key": "finalize:job"})
    await ask(running, "/api_calls/reserve", {"amount": 1, "id": "job"})
    assert (await ask(running, "/api_calls/finalize", {"amount": 1, "id": "job"}))["used"] == 2


async def test_one_meter_is_read_by_itself(running: Running, store: Store) -> None:
    version = await entitle(store, api_calls=10)
    await ask(running, "/api_calls/consume", {"amount": 4})
    found, every = await ask(running, "/api_calls"), await ask(running, "")
    assert (found["used"], found["limit"], found["remaining"], found["status"]) == (4, 10, 6, "ok")
    assert found["entitlements"] == version
    assert every["meters"]["api_calls"].items() <= found.items()
    assert (await ask(running, "/nope", status=404))["code"] == "meter_unknown"


async def test_calls_are_counted_by_what_came_of_them(running: Running, store: Store) -> None:
    await entitle(store, api_calls=1)
    for body in ({"key": "a"}, {"key": "a"}, {"key": "b"}):
        await ask(running, "/api_calls/consume", body)
    await ask(running, "/made_up/consume", {}, 404)
    assert running.node.metrics.usage_calls == Counter({
        ("consume", "api_calls", "allowed"): 1,
        ("consume", "api_calls", "repeated"): 1,
        ("consume", "api_calls", "denied"): 1,
        ("consume", "other", "rejected"): 1,
    })  # fmt: skip
    text = running.node.metrics.exposition().decode()
    assert 'planwire_usage_calls_total{meter="api_calls",operation="consume",outcome="denied"} 1.0' in text
    assert "planwire_usage_seconds_count 4.0" in text


async def test_without_the_store_nothing_is_denied(running: Running, server: Server) -> None:
    """Not known is no denial: 503 for a call, and a problem for each call of a batch."""
    await ask(running, "/api_calls/consume", {})
    server.kill()
    problem = await ask(running, "/api_calls/consume", {}, 503)
    assert problem["code"] == "store_unavailable"
    assert "allowed" not in problem
    results = await ask_batch(running, [{"tenant": "acme", "meter": "api_calls"}] * 2)
    assert [one["code"] for one in results] == ["store_unavailable"] * 2
    assert all("allowed" not in one for one in results)
    assert (await ask(running, "", status=503))["code"] == "store_unavailable"
    assert running.node.metrics.usage_calls["consume", "api_calls", "unknown"] == 3


async def test_answers_wait_until_calls_are_on_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many concurrent calls wait together."""
    waits, release = [], asyncio.Event()

    async def wait(self: Store, timeout_s: float = 4.0) -> None:
        waits.append(self)
        await release.wait()

    monkeypatch.setattr(Store, "wait_durable", wait)
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    environ = environment(
        server.url, INTAKE="1", CATALOG=str(path), PADDLE_SECRETS="live:pdl_ntfset_x", DURABLE="1", SWEEP_S="60"
    )
    async with run_gateway(environ) as running:
        asked = [asyncio.create_task(ask(running, "/seats/consume", {"key": f"{number}"})) for number in range(20)]
        asked.append(asyncio.create_task(ask_batch(running, [{"tenant": "acme", "meter": "seats"}])))
        while not waits:
            await asyncio.wait(asked, timeout=0.01)
        assert not any(one.done() for one in asked)
        release.set()
        found = await asyncio.gather(*asked)
    assert sum(one["allowed"] for one in found[:-1]) + found[-1][0]["allowed"] == 1
    assert len(waits) < 10


async def test_a_process_without_an_intake_says_where_to_ask(server: Server) -> None:
    async with run_gateway(environment(server.url)) as running:
        for path in ("/api_calls/consume", ""):
            problem = await ask(running, path, {}, 404)
            assert problem["code"] == "not_found"
            assert "PLANWIRE_INTAKE" in problem["detail"]
        assert "PLANWIRE_INTAKE" in (await ask_batch(running, [], 404))["detail"]


async def test_how_often_usage_is_pushed_is_a_setting(server: Server, tmp_path: Path, store: Store) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    environ = environment(
        server.url, INTAKE="1", CATALOG=str(path), PADDLE_SECRETS="live:pdl_ntfset_x", USAGE_PUSH_PER_S="0.1"
    )
    await entitle(store, api_calls=100)
    async with run_gateway(environ) as running:
        first = await ask(running, "/api_calls/consume", {})
        second = await ask(running, "/api_calls/consume", {})
        assert second["usage_version"] == first["usage_version"]
        redis: Any = store.redis
        pushed, due = await redis.hmget("pw:{tenant:acme}:usage:meters", "pushed", "due")
        assert int(due) - int(pushed) == 10_000_000
