"""Reads are bounded: a rate for each subject or address, no place kept for who is gone, no redirect by Host."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import httpx2
import pytest

from gateway.api import reads
from gateway.api.reads import Rates
from sync.http.problem import Problem
from sync.store.models import Change
from sync.store.store import Store
from tests.support.attacker import request
from tests.support.gateway import MAX_WAIT_S, SECRET, Running, environment, run_gateway, token
from tests.support.wait import until
from tests.support.wire import dial
from tools.docs import openapi

TOPIC = "tenant:acme"
BURST = 10


def reader(running: Running, sub: str = "tester", **headers: str) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {token(sub=sub)}", **headers}
    return httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=MAX_WAIT_S, trust_env=False)


# Rates.


@pytest.mark.parametrize("path", [f"/v1/state/{TOPIC}", f"/v1/state/{TOPIC}?min_version=1&wait_ms=0"])
async def test_a_subject_reads_so_often_and_then_has_to_wait(store_url: str, path: str) -> None:
    limits = environment(store_url, READS_PER_S="2")
    async with run_gateway(limits) as running, reader(running) as client, reader(running, "other") as other:
        answers = Counter([(await client.get(path)).status_code for _ in range(BURST)])
        assert 429 not in answers
        refused = await client.get(path)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
        stream = await client.get(f"/v1/state/{TOPIC}/events")
        assert (stream.status_code, stream.json()["code"]) == (429, "rate_limited")
        assert (await other.get(path)).status_code != 429

        async def is_served_again() -> bool:
            return (await client.get(path)).status_code != 429

        await until(is_served_again, MAX_WAIT_S, every_s=0.1)


@pytest.mark.parametrize("path", ["/v1/openapi.json", "/v1/asyncapi.json", "/client/planwire.js", "/console/"])
async def test_what_needs_no_token_has_a_rate_for_each_address(store_url: str, path: str) -> None:
    limits = environment(store_url, READS_PER_S="2", TRUSTED_PROXIES="127.0.0.1", CONSOLE_TOKEN=SECRET)
    async with run_gateway(limits) as running:
        async with reader(running, **{"X-Forwarded-For": "203.0.113.9"}) as client:
            assert {(await client.get(path)).status_code for _ in range(BURST)} == {200}
            refused = await client.get(path)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/healthz")).status_code == 200
        async with reader(running, **{"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}) as other:
            assert (await other.get(path)).status_code == 200


def test_only_so_many_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "KEPT_MAX", 100)
    some = Rates(1.0)
    for number in range(1000):
        some.spend(str(number), 0.0)
        some.spend("0", float(number))  # who goes on reading is not forgotten
        assert len(some._buckets) <= 100
    for _ in range(3):
        some.spend("0", 999.0)
    with pytest.raises(Problem):
        some.spend("0", 999.0)


# Who is gone.


@pytest.mark.parametrize("has_source", [False, True], ids=["a version", "the source"])
async def test_a_waiting_read_gives_its_place_up_when_its_client_goes(store_url: str, has_source: bool) -> None:
    source = {"SOURCE_URL": "http://127.0.0.1:9", "SOURCE_SECRET": SECRET} if has_source else {}
    query = "wait_ms=30000" if has_source else "min_version=99999999999&wait_ms=30000"
    limits = environment(store_url, STREAMS_PER_SUBJECT="4", WAIT_MAX_MS="30000", **source)
    async with run_gateway(limits) as running:
        head = request(f"GET /v1/state/{TOPIC}?{query}", f"Authorization: Bearer {token()}")
        for _ in range(3):
            async with dial(running.port) as one, dial(running.port) as two, dial(running.port) as three:
                for wire in (one, two, three):
                    await wire.send(head)
                await until(lambda: running.node.metrics.streams == 3)
            await until(lambda: running.node.metrics.streams == 0)
        async with reader(running) as client:
            waiting = asyncio.create_task(client.get(f"/v1/state/{TOPIC}?{query}"))
            await until(lambda: running.node.metrics.streams == 1)
            waiting.cancel()
        live = running.node.hub.topic(TOPIC)
        await until(lambda: live is not None and live.readers == 0)


async def test_a_waiting_read_whose_client_stays_is_answered(store_url: str, store: Store) -> None:
    first = await store.commit(Change(TOPIC, b'{"n":1}'))
    async with run_gateway(environment(store_url)) as running, reader(running) as client:
        path = f"/v1/state/{TOPIC}?min_version={first.version + 1}&wait_ms=30000"
        waiting = asyncio.create_task(client.get(path))
        await until(lambda: running.node.metrics.streams == 1)
        second = await store.commit(Change(TOPIC, b'{"n":2}'))
        assert (await waiting).json()["version"] == second.version


# Redirects.


async def test_no_address_is_answered_by_a_redirect_to_the_host_that_was_sent(store_url: str) -> None:
    paths = {re.sub(r"{[^}]+}", "x", path) for path in openapi.document()["paths"]}
    paths |= {"/client", "/client/planwire.js", "/console/api/session", "/webhooks/paddle"}
    async with (
        run_gateway(environment(store_url, CONSOLE_TOKEN=SECRET)) as running,
        httpx2.AsyncClient(base_url=running.url, trust_env=False, follow_redirects=False) as client,
    ):
        for path in sorted(paths):
            for method in ("GET", "POST"):
                for spelling in (path, path + "/", path + "//", "/" + path):
                    answer = await client.request(method, spelling, headers={"Host": "evil.example"})
                    assert not answer.is_redirect, f"{method} {spelling}: {answer.headers['location']}"
                    assert "evil.example" not in str(answer.headers)
        slashed = await client.post("/v1/publish/")
        assert (slashed.status_code, slashed.json()["code"]) == (404, "not_found")
