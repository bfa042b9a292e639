"""Usage in two real tabs on two gateways: one count, with the limit that belongs to it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from playwright.async_api import Browser, BrowserContext, Page, Route

from planwire_client.core.commit import BILLING
from sync.store.models import Change
from sync.store.redis.connect import connect
from tests.integration.test_usage import ask, gateway
from tests.support.client_pages import CLIENT
from tests.support.gateway import token
from tests.support.proxy import run_proxy
from tests.support.servers import start_valkey
from tests.support.usage import end_window
from tests.support.wait import until

HTML = '<!doctype html><meta charset="utf-8"><title>usage</title><script type="module" src="/probe/probe.js"></script>'
SCRIPT = """
import { planwire } from "/client/planwire.js";
import { meter, usage } from "/client/usage.js";
const client = planwire({ url: location.origin, token: async () => TOKEN });
const entitled = client.topic("tenant:acme");
window.log = [];
usage(client, "tenant:acme").subscribe((snapshot) => {
  const { version, state } = entitled.getSnapshot();
  window.log.push({ ...meter(snapshot, "api_calls"), granted: state?.limits?.api_calls, version });
});
"""


async def open_tab(context: BrowserContext, url: str) -> Page:
    """A tab of an application whose gateway is at `url`. Its files come without the network."""

    async def serve(route: Route) -> None:
        path = route.request.url.partition("?")[0]
        if "/client/" in path:
            await route.fulfill(path=CLIENT / path.rpartition("/")[2], content_type="text/javascript")
        elif path.endswith(".js"):
            script = SCRIPT.replace("TOKEN", json.dumps(token("tenant:acme")))
            await route.fulfill(body=script, content_type="text/javascript")
        else:
            await route.fulfill(body=HTML, content_type="text/html")

    page = await context.new_page()
    for pattern in ("**/probe/**", "**/client/*.js"):
        await page.route(pattern, serve)
    await page.goto(f"{url}/probe/")
    return page


async def log_of(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await page.evaluate("JSON.stringify(window.log ?? [])"))
    return found


async def shows(page: Page, matches: Callable[[dict[str, Any]], bool]) -> None:
    async def is_shown() -> bool:
        log = await log_of(page)
        return bool(log) and matches(log[-1])

    await until(is_shown, timeout_s=30, every_s=0.02)


def pair(used: int, limit: int) -> Callable[[dict[str, Any]], bool]:
    return lambda last: (last["fresh"], last.get("used"), last.get("limit")) == (True, used, limit)


async def test_two_tabs_on_two_gateways_show_one_count_with_its_limit(browser: Browser, tmp_path: Path) -> None:
    period = {
        "starts_at": "2026-11-15T00:00:00Z",
        "ends_at": (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=20)).isoformat(),
    }
    (tmp_path / "b").mkdir()
    with start_valkey(tcp=True) as server:
        store = connect(server.url).store

        async def entitle(limit: int) -> None:
            state = {"plan": {"key": "pro"}, "status": "active", "limits": {"api_calls": limit}, "period": period}
            await store.commit(Change("tenant:acme", orjson.dumps(state), owner=BILLING))

        await entitle(10)
        settings = {"HEARTBEAT_S": "1", "RECONNECT_MIN_MS": "100", "RECONNECT_MAX_MS": "500"}
        context = await browser.new_context()
        async with (
            gateway(server, tmp_path, DEV="1", **settings) as one,
            gateway(server, tmp_path / "b", DEV="1", **settings) as other,
            run_proxy("127.0.0.1", one.port) as wire,
            run_proxy("127.0.0.1", other.port) as other_wire,
        ):
            tabs = [await open_tab(context, f"http://127.0.0.1:{each.port}") for each in (wire, other_wire)]
            for tab in tabs:
                await shows(tab, pair(0, 10))
            await ask(one, "/api_calls/consume", {"amount": 4})
            await ask(other, "/api_calls/consume", {"amount": 6})
            assert (await ask(other, "/api_calls/consume", {"amount": 1}))["allowed"] is False
            for tab in tabs:
                await shows(tab, pair(10, 10))
            await entitle(100)
            for tab in tabs:
                await shows(tab, pair(10, 100))

            # One tab is cut off while the other gateway counts: it says so, and is right when it is back.
            wire.is_refusing = True
            wire.cut()
            await shows(tabs[0], lambda last: not last["fresh"])
            await ask(other, "/api_calls/consume", {"amount": 5})
            await shows(tabs[1], pair(15, 100))
            assert (await log_of(tabs[0]))[-1]["fresh"] is False
            wire.heal()
            await shows(tabs[0], pair(15, 100))

            await tabs[1].reload()
            await shows(tabs[1], pair(15, 100))

            await end_window(store, "acme", "api_calls", used=15)
            await ask(one, "/api_calls/consume", {"amount": 2})
            for tab in tabs:
                await shows(tab, pair(2, 100))

            for tab in tabs:
                shown = [entry for entry in await log_of(tab) if entry["fresh"]]
                assert [entry for entry in shown if entry.get("limit") != entry.get("granted")] == []
            await context.close()
        await store.aclose()
