"""The console's purpose in a real browser: why a tenant still sees the old plan is found in at most three clicks."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest
from playwright.async_api import expect

from sync.store.models import Change
from tests.support.bodies import SANDBOX_SECRET, SECRET
from tests.support.chromium import chromium
from tests.support.gateway import Client, environment, open_client, run_gateway, token
from tests.support.proxy import run_proxy
from tests.support.servers import Server, start_valkey
from tests.support.system import CATALOG, System, ago, event, run_system, selling
from tests.support.visitor import Visitor, visiting
from tests.support.wait import until

CLICKS_MAX = 3
STATE_BYTES = 60_000
VERSIONS_MAX = 200
"""Together more than every buffer between a gateway and a tab that does not read."""

BLOCKED_ENOUGH = 10
"""Versions in a row that found the connection full: it is, and not just for a moment."""


@pytest.fixture
def valkey() -> Iterator[Server]:
    with start_valkey(tcp=True) as server:
        yield server


@asynccontextmanager
async def tab_of(system: System, tenant: str, sub: str) -> AsyncIterator[Client]:
    """A tab that has acknowledged what it was sent first."""
    topic = f"tenant:{tenant}"
    # Without pings: a tab that reads nothing would miss their answers, and go away after 20 s.
    async with open_client(system.gateway, topic, jwt=token(sub=sub), close_timeout=0.1, ping_interval=None) as client:
        frame = await client.until("snapshot")
        await client.send("ack", topic=topic, version=frame["version"])
        yield client


async def freeze(system: System, client: Client) -> None:
    """Have a tab read nothing more, and commit until its connection is full."""
    client.connection.transport.pause_reading()
    live = system.gateway.node.hub.topic("tenant:slow")
    assert live is not None
    (tab,) = live.subscriptions
    blocked = 0
    for number in range(VERSIONS_MAX):
        state = {"plan": {"key": "pro", "name": "Pro"}, "n": number, "filler": os.urandom(STATE_BYTES // 2).hex()}
        version = (await system.store.commit(Change("tenant:slow", orjson.dumps(state)))).version
        await until(functools.partial(lambda wanted: live.version >= wanted, version))
        blocked = 0 if tab.socket.pending is None else blocked + 1
        if blocked == BLOCKED_ENOUGH:
            return
    raise AssertionError("its connection took everything")


async def test_every_way_a_tenant_can_be_stuck_is_found_in_three_clicks(valkey: Server, tmp_path: Path) -> None:
    """One system with all the faults at once; each is followed from the landing page to the words that explain it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        seller = await enter(selling(tmp_path))
        settings = {"DEV": "1", "ACK_AFTER_MS": "0", "HEARTBEAT_S": "15", **seller.settings}
        settings |= {"PADDLE_SECRETS": f"live:{SECRET}"}
        system = await enter(run_system(valkey.url, tmp_path, catalog=CATALOG, **settings))
        proxy = await enter(run_proxy("127.0.0.1", valkey.port))
        deaf_environ = environment(f"redis://127.0.0.1:{proxy.port}", DEV="1", PROBE_S="0.4", SWEEP_S="0.5")
        deaf = await enter(run_gateway(deaf_environ))
        visitor = await enter(visiting(await enter(chromium()), system.gateway.url, color_scheme="light"))

        # Five tenants with a tab each, and one at the gateway that will be deaf.
        for tenant in ("stale", "catalog", "sandbox"):
            await system.apply(event(ago(3600), tenant=tenant, items=[("pri_basic", 1)]))
            await enter(tab_of(system, tenant, f"ann@{tenant}"))
        await system.apply(event(ago(3600), tenant="deaf", items=[("pri_basic", 1)]))
        await enter(open_client(deaf, "tenant:deaf", jwt=token(sub="ann@deaf")))
        slow = await enter(tab_of(system, "slow", "ann@slow"))

        # What goes wrong.
        assert await system.outcome(event(ago(60), tenant=None, id="sub_lost", customer_id="ctm_lost")) == "parked"
        await system.apply(event(ago(30), tenant="stale", items=[("pri_basic", 2)]))
        assert await system.outcome(event(ago(600), tenant="stale", event_id="evt_late")) == "refused"
        assert await system.outcome(event(ago(60), tenant="catalog", items=[("pri_new", 1)])) == "parked"
        answer = await system.deliver(event(ago(60), tenant="sandbox"), SANDBOX_SECRET)
        assert answer.status_code == 403
        await visitor.land()
        await until(lambda: deaf.node.hub.fresh, timeout_s=10)
        await expect(visitor.page.locator("#gateways .pill")).to_have_count(2)
        proxy.freeze()
        await freeze(system, slow)

        stories = (slow_tab, parked, stale_order, deaf_gateway, catalog_miss, wrong_secret)
        for story in stories:
            await visitor.land()
            await story(visitor, deaf.node.name)
            assert 1 <= visitor.clicks <= CLICKS_MAX, story.__name__
        await visitor.land()
        await visitor.fits()
        await visitor.is_content()
        proxy.heal()


async def parked(visitor: Visitor, _: str) -> None:
    """An event of which nobody knows whose it is."""
    await visitor.click(visitor.page.get_by_role("link", name="1 parked event (live)"))
    now = visitor.page.locator("#now")
    await expect(now).to_contain_text("no tenant is known for sub_lost")
    await expect(visitor.page.locator("#cause")).to_contain_text("custom_data.tenant_id")


async def stale_order(visitor: Visitor, _: str) -> None:
    """An event that is older than what is known."""
    await visitor.click(visitor.page.get_by_role("link", name="tenant:stale", exact=True))
    await visitor.click(visitor.page.locator("#findings").get_by_role("link", name="The newest event was ignored"))
    row = visitor.page.locator("#events tbody").last.locator("tr").first
    await expect(row).to_contain_text("evt_late")
    await expect(row).to_contain_text("refused")
    await expect(row).to_be_in_viewport()
    await expect(visitor.page.locator("#events .explained")).to_contain_text("something newer about the same")


async def deaf_gateway(visitor: Visitor, name: str) -> None:
    """A gateway that is cut off from the bus."""
    await visitor.click(visitor.page.locator("#attention").get_by_role("link", name=f"Gateway {name} is"))
    await expect(visitor.page.locator(f"#gateways [data-gateway='{name}'].found")).to_contain_text("SILENT")
    await expect(visitor.page.locator("#cause")).to_contain_text("comes back over the bus")


async def slow_tab(visitor: Visitor, _: str) -> None:
    """A browser that does not read."""
    await visitor.click(visitor.page.locator("#attention").get_by_role("link", name="tenant:slow: 1 tab BEHIND"))
    row = visitor.page.locator("#tabs .vspace .vrow").first
    await expect(row).to_contain_text("BEHIND")
    await expect(row).to_contain_text("ann@slow")
    await expect(row).to_contain_text("takes no more data")
    await expect(row).to_be_in_viewport()


async def catalog_miss(visitor: Visitor, _: str) -> None:
    """A price that the catalog does not know."""
    await visitor.click(visitor.page.get_by_role("link", name="Catalog: unknown price pri_new in live"))
    await expect(visitor.page.locator("#events")).to_contain_text("unknown price pri_new")
    await expect(visitor.page.locator("#events .explained")).to_contain_text("Add the price")


async def wrong_secret(visitor: Visitor, _: str) -> None:
    """A webhook that another environment's secret has signed."""
    await visitor.click(visitor.page.locator("#attention").get_by_role("link", name="rejected: signature_invalid"))
    await expect(visitor.page.locator("#now")).to_contain_text("signature_invalid")
    await expect(visitor.page.locator("#cause")).to_contain_text("sandbox")
