"""A browser's and a command line's way to the console, for tests."""

from __future__ import annotations

from typing import Any

import httpx2
import orjson

from gateway.console.reports import lease
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import Running
from tests.support.wait import until

TOKEN = "a-console-token-for-tests-0123456789"
TOPIC = "tenant:acme"


def http(running: Running, **options: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=running.url, **options)


async def login(client: httpx2.AsyncClient, token: object = TOKEN, **headers: str) -> httpx2.Response:
    origin = {"Origin": str(client.base_url).rstrip("/")}
    return await client.post("/console/login", json={"token": token}, headers=origin | headers)


async def seen_by_each_other(*gateways: Running) -> None:
    """Wait until a look that any of them takes takes in all."""
    names, store = {one.node.name for one in gateways}, gateways[0].node.store

    async def stand_there() -> bool:
        return names <= (await lease.gateways(store)).keys()

    await until(stand_there)


async def get(client: httpx2.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(f"/console/api/{path}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def commit(store: Store, state: object, topic: str = TOPIC, **options: Any) -> int:
    return (await store.commit(Change(topic, orjson.dumps(state), **options))).version


async def act(client: httpx2.AsyncClient, action: str, **body: Any) -> httpx2.Response:
    """Return what a page of our own is answered."""
    return await post(client, f"actions/{action}", body)


async def post(client: httpx2.AsyncClient, path: str, body: object) -> httpx2.Response:
    """Return what a page of our own is answered."""
    origin = str(client.base_url).rstrip("/")
    return await client.post(f"/console/api/{path}", json=body, headers={"Origin": origin, "Planwire-Console": "1"})
