"""The FastAPI example in a real browser: the plan is there at first paint, and an upgrade opens it without a reload."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from playwright.async_api import expect

from examples.fastapi_app.app import PLANS, Settings, create_app
from planwire_client.core import canonical_json
from sync.outbox.relay import Relay
from sync.store.models import Change
from sync.store.store import Store
from tests.support.chromium import chromium
from tests.support.gateway import PUBLISH_KEY, SECRET, environment, run_gateway
from tests.support.postgres import start_postgres
from tests.support.servers import free_port


@asynccontextmanager
async def serving(app: FastAPI, port: int) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws="none"))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if task.done():
            task.result()
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def relaying(database: str, store: Store) -> AsyncIterator[None]:
    relay = Relay(database, store)
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        relay.stop()
        await task


async def test_an_upgrade_through_the_outbox_opens_the_page_without_a_reload(store: Store, store_url: str) -> None:
    await store.commit(Change("workspace:acme", canonical_json.encode(PLANS["free"])))
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    with start_postgres() as postgres, postgres.database() as database:
        url = database.replace("postgresql://", "postgresql+psycopg://")
        async with (
            run_gateway(environment(store_url, ALLOWED_ORIGINS=origin)) as gateway,
            serving(create_app(Settings(url, gateway.url, SECRET, PUBLISH_KEY)), port),
            relaying(database, store),
            chromium() as browser,
        ):
            context = await browser.new_context()
            await context.add_cookies([{"name": "tenant", "value": "acme", "url": origin}])
            page = await context.new_page()
            errors: list[str] = []
            loads: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("load", lambda page: loads.append(page.url))

            # First paint: what the server injected stands there before any script has run.
            await page.route("**/client/*.js", lambda route: route.abort())
            response = await page.goto(origin)
            assert response is not None
            await expect(page.locator("#plan")).to_have_text("Free")
            initial = await page.evaluate("JSON.parse(document.getElementById('planwire-initial').textContent)")
            version = int(response.headers["planwire-version"])
            assert (initial["version"], initial["state"]) == (version, PLANS["free"])
            await page.unroute("**/client/*.js")

            await page.goto(origin)
            await expect(page.locator("#plan")).to_have_text("Free")
            denied = await page.request.get(f"{origin}/export")
            assert denied.status == 402
            before = len(loads)
            upgraded = await page.request.post(f"{origin}/upgrade")
            assert upgraded.status == 200
            await expect(page.locator("#plan")).to_have_text("Pro")
            seen = upgraded.headers["planwire-version"]
            assert re.fullmatch("[0-9]{16}", seen)
            allowed = await page.request.get(f"{origin}/export", headers={"Planwire-Version": seen})
            assert allowed.status == 200
            assert len(loads) == before, "the page was reloaded"
            assert errors == []
            await context.close()
