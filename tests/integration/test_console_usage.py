"""The console's access to usage: what it shows, to whom, and its corrections with their audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sync.store.store import Store
from tests.integration.test_usage import ask, entitle
from tests.integration.test_usage_calls import CATALOG
from tests.support.console import TOKEN, act, get, http, login
from tests.support.gateway import Running, environment, run_gateway

READ_TOKEN = "a-read-only-console-token-0123456789"
TOKENS = f"{TOKEN},read:{READ_TOKEN}"


@asynccontextmanager
async def gateway(store_url: str, tmp_path: Path, catalog: str = CATALOG, **more: str) -> AsyncIterator[Running]:
    path = tmp_path / "catalog.toml"
    path.write_text(catalog)
    given = {"INTAKE": "1", "CATALOG": str(path), "PADDLE_SECRETS": "live:pdl_ntfset_x", "CONSOLE_TOKEN": TOKENS}
    async with run_gateway(environment(store_url, **{**given, **more})) as running:
        yield running


@pytest.fixture
async def running(store_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(store_url, tmp_path) as running:
        yield running


@asynccontextmanager
async def operator(running: Running, token: str = TOKEN) -> AsyncIterator[httpx2.AsyncClient]:
    async with http(running) as client:
        assert (await login(client, token)).status_code == 204
        yield client


async def of_tenant(client: httpx2.AsyncClient, topic: str = "tenant:acme") -> dict[str, Any]:
    return await get(client, f"usage/{topic}")


async def test_it_shows_each_meter_the_newest_calls_and_denied_ones(running: Running, store: Store) -> None:
    await entitle(store, api_calls=3, seats="unlimited")
    await ask(running, "/api_calls/consume", {"amount": 3, "key": "order-1"})
    await ask(running, "/api_calls/consume", {"amount": 1, "key": "order-2"})
    async with operator(running) as client:
        found = await of_tenant(client)
        assert found["listed"]
        meters = {one["meter"]: one for one in found["meters"]}
        assert list(meters) == ["api_calls", "exports", "tokens", "seats", "ai"], "the catalog's order"
        assert (meters["api_calls"]["used"], meters["api_calls"]["status"]) == (3, "reached")
        assert meters["seats"]["limit"] == "unlimited"
        calls = [(one["meter"], one["key"], one["allowed"]) for one in found["calls"]]
        assert calls == [("api_calls", "order-2", False), ("api_calls", "order-1", True)]
        assert (await of_tenant(client, "usage:acme"))["calls"] == found["calls"]
        assert not (await of_tenant(client, "user:42"))["listed"]


async def test_a_correction_is_in_the_history_and_in_the_audit(running: Running, store: Store) -> None:
    await entitle(store, api_calls=3, ai=5)
    await ask(running, "/api_calls/consume", {"amount": 3})
    async with operator(running) as client:
        asked = {"topic": "tenant:acme", "meter": "api_calls", "reason": "counted twice"}
        done = (await act(client, "adjust_usage", by=-2, **asked)).json()
        assert (done["outcome"], done["used"], done["remaining"]) == ("done", 1, 2)
        given = {"topic": "tenant:acme", "meter": "ai", "amount": 20, "reason": "sorry"}
        assert (await act(client, "grant_credits", **given)).json()["remaining"] == 25
        granted, corrected = (await of_tenant(client))["corrections"]
        assert (granted["operation"], granted["amount"], granted["reason"]) == ("grant", 20, "sorry")
        assert (corrected["how"], corrected["amount"], corrected["reason"]) == ("by", -2, "counted twice")
        assert corrected["by"].startswith("console:")
        entries = (await get(client, "audit"))["entries"]
        assert [(one["action"], one["outcome"]) for one in entries] == [
            ("grant_credits", "done"),
            ("adjust_usage", "done"),
        ]


@pytest.mark.parametrize(
    ("action", "body", "status", "says"),
    [
        ("adjust_usage", {"meter": "api_calls", "reason": "x"}, 422, "one of to and by"),
        ("adjust_usage", {"meter": "api_calls", "to": 1}, 422, "reason"),
        ("adjust_usage", {"meter": "calls", "to": 1, "reason": "x"}, 404, "no such meter"),
        ("adjust_usage", {"meter": "api_calls", "to": -1, "reason": "x"}, 422, "to"),
        ("adjust_usage", {"meter": "api_calls", "to": 1, "reason": "x", "key": "k"}, 422, "send by, meter"),
        ("grant_credits", {"meter": "api_calls", "amount": 1, "reason": "x"}, 422, "consumable"),
        ("grant_credits", {"meter": "ai", "amount": 0, "reason": "x"}, 422, "amount"),
        ("grant_credits", {"topic": "user:1", "meter": "ai", "amount": 1, "reason": "x"}, 422, "only tenants"),
        ("grant_credits", {"topic": "mars/tenant:a", "meter": "ai", "amount": 1, "reason": "x"}, 422, "env must be"),
    ],
)
async def test_a_wrong_correction_says_what_is_wrong(
    running: Running, action: str, body: dict[str, Any], status: int, says: str
) -> None:
    async with operator(running) as client:
        answer = await act(client, action, **{"topic": "tenant:acme", **body})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]


async def test_a_reader_sees_counts_and_neither_keys_nor_reasons(running: Running, store: Store) -> None:
    await ask(running, "/api_calls/consume", {"key": "order-of-jane"})
    await ask(running, "/api_calls/adjust", {"to": 0, "reason": "asked by jane"})
    async with operator(running, READ_TOKEN) as client:
        answer = await client.get("/console/api/usage/tenant:acme")
        assert "jane" not in answer.text
        assert answer.json()["private_hidden"]
        assert (answer.json()["meters"][0]["used"], len(answer.json()["calls"])) == (0, 2)
        refused = await act(client, "adjust_usage", topic="tenant:acme", meter="api_calls", to=1, reason="x")
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


async def test_a_limit_that_is_not_known_is_absent(running: Running, store: Store) -> None:
    async with operator(running) as client, http(running) as backend:
        key = {"Authorization": "Bearer a-publish-key-for-tests"}
        await backend.post("/v1/publish", json={"topic": "tenant:acme", "state": {"limits": {}}}, headers=key)
        meter = (await of_tenant(client))["meters"][0]
        assert (meter["status"], "limit" in meter, "remaining" in meter) == ("unknown", False, False)


async def test_a_catalog_without_meters_asks_nothing_of_the_store(store_url: str, store: Store, tmp_path: Path) -> None:
    catalog = '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n'
    async with gateway(store_url, tmp_path, catalog) as running, operator(running) as client:
        assert (await of_tenant(client))["meters"] == []
        assert not [key async for key in store.redis.scan_iter("*usage*")]


async def test_a_process_without_an_intake_lists_nothing(store_url: str, tmp_path: Path) -> None:
    async with gateway(store_url, tmp_path, INTAKE="0") as running, operator(running) as client:
        assert await of_tenant(client) | {"at": 0, "gateway": ""} == {
            "listed": False,
            "meters": [],
            "at": 0,
            "gateway": "",
        }
        refused = await act(client, "adjust_usage", topic="tenant:acme", meter="api_calls", to=1, reason="x")
        assert refused.status_code == 404
