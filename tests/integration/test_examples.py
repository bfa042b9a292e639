"""The example applications, whole: gate, upgrade through the outbox, push, token and first paint."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import psycopg
import pytest

from examples.fastapi_app import app as fastapi_app
from examples.fastapi_app.app import Settings, create_app
from planwire_client import Replica
from sync.outbox.relay import Relay
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import PUBLISH_KEY, SECRET, Running, environment, run_gateway
from tests.support.postgres import Postgres, start_postgres

COOKIE = {"Cookie": "tenant=acme"}
MAX_WAIT_S = 20.0
"""How long an upgrade waits for its push where the push is sure to come, on a busy machine."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with start_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
async def gateway(store_url: str) -> AsyncIterator[Running]:
    async with run_gateway(environment(store_url)) as running:
        yield running


def initial_of(page: str) -> dict[str, Any]:
    """The snapshot that a page starts with."""
    found = re.search(r'<script[^>]*id="planwire-initial"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document


async def reads_with(gateway: Running, token: str) -> None:
    """A browser's token opens its own tenant and no other."""
    async with Replica(gateway.url, token) as replica:
        assert (await replica.wait_for("workspace:acme")).has("export")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=gateway.url, headers=headers) as browser:
        assert (await browser.get("/v1/state/workspace:other")).status_code == 403


async def test_the_fastapi_application(
    gateway: Running, store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastapi_app, "PUSH_MAX_WAIT_S", MAX_WAIT_S)
    url = database.replace("postgresql://", "postgresql+psycopg://")
    app = create_app(Settings(url, gateway.url, SECRET, PUBLISH_KEY))
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://testserver", headers=COOKIE) as client,
    ):
        relay = Relay(database, store)
        relaying = asyncio.create_task(relay.run())
        try:
            assert (await client.get("/export")).status_code == 402
            before = await client.get("/")
            assert initial_of(before.text) == {"topic": "workspace:acme", "version": 0, "state": None}
            upgraded = await client.post("/upgrade")
            version = int(upgraded.headers["Planwire-Version"])
            assert upgraded.json() == {"plan": "pro", "version": version}
            allowed = await client.get("/export", headers={"Planwire-Version": str(version)})
            assert (allowed.status_code, allowed.headers["Planwire-Version"]) == (200, str(version))
            page = await client.get("/")
            assert initial_of(page.text)["version"] == version
            assert '<output id="plan">Pro</output>' in page.text
            assert (await client.get("/export", headers={"Cookie": "tenant=other"})).status_code == 402
            assert (await client.get("/export", headers={"Cookie": "tenant=a/b"})).status_code == 422
            await reads_with(gateway, (await client.post("/planwire-token")).text)
            hostile = b'{"plan":{"name":"</script><b>","key":"x","rank":0}}'
            evil = (await store.commit(Change("workspace:acme", hostile))).version
            await app.state.replica.wait_for("workspace:acme", evil)
            page = await client.get("/")
            assert initial_of(page.text)["state"]["plan"]["name"] == "</script><b>"
            assert "<b>" not in page.text
        finally:
            relay.stop()
            await relaying
        # The relay is gone: committed all the same, and said to be on its way.
        monkeypatch.setattr(fastapi_app, "PUSH_MAX_WAIT_S", 0.5)
        late = await client.post("/upgrade", headers={"Cookie": "tenant=late"})
        assert (late.status_code, "Planwire-Version" in late.headers) == (202, False)
        # Behind what the browser has seen: better no answer than an old one.
        seen = {"Planwire-Version": str(time.time_ns() // 1000), "Cookie": "tenant=late"}
        assert (await client.get("/export", headers=seen)).status_code == 503


async def test_the_django_project(
    gateway: Running, store: Store, database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE tenants (id text PRIMARY KEY, plan text)")
        from planwire_client import outbox

        connection.execute(outbox.DDL.encode())
    for name, value in {
        "DJANGO_SETTINGS_MODULE": "examples.django_app.settings",
        "DJANGO_SECRET_KEY": "only-for-this-test",
        "DATABASE_NAME": database.partition("@/")[2].partition("?")[0],
        "DATABASE_USER": "planwire",
        "DATABASE_HOST": str(postgres.folder),
        "GATEWAY_URL": gateway.url,
        "PLANWIRE_JWT_SECRET": SECRET,
        "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY,
    }.items():
        monkeypatch.setenv(name, value)
    relay = Relay(database, store)
    relaying = asyncio.create_task(relay.run())
    try:
        token = await asyncio.to_thread(_use_django, monkeypatch)
        await reads_with(gateway, token)
    finally:
        relay.stop()
        await relaying


def _use_django(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a browser would do, in a thread as Django's own; returns the browser's token."""
    import django
    from django.db import connections, transaction
    from django.test import Client

    from planwire_client import outbox

    django.setup()
    project = importlib.import_module("examples.django_app.planwire")
    monkeypatch.setattr("examples.django_app.views.PUSH_MAX_WAIT_S", MAX_WAIT_S)
    try:
        client = Client(headers={"cookie": "tenant=acme"})
        assert client.get("/export").status_code == 402
        assert initial_of(client.get("/").content.decode())["version"] == 0
        assert client.get("/upgrade").status_code == 405
        upgraded = client.post("/upgrade")
        version = upgraded.headers["Planwire-Version"]
        assert (upgraded.status_code, upgraded.json()) == (200, {"plan": "pro"})
        allowed = client.get("/export", headers={"cookie": "tenant=acme", "planwire-version": version})
        assert allowed.status_code == 200
        page = client.get("/").content.decode()
        assert initial_of(page)["version"] == int(version)
        assert '<output id="plan">Pro</output>' in page
        with pytest.raises(outbox.OutsideTransaction):
            outbox.enqueue_django("workspace:acme", {})
        with transaction.atomic():
            outbox.enqueue_django("workspace:undone", {})
            transaction.set_rollback(True)
        assert project.replica.wait_for("workspace:undone").version == 0
        return str(client.post("/planwire-token").content.decode())
    finally:
        project.replica.close()
        connections.close_all()
