"""Calls that browsers cause: however they storm, the provider's list is not read, and paying tenants are repaired."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import run_cases
from tests.support.gateway import token
from tests.support.servers import missing
from tests.support.shops import Shop, paddle, stripe
from tests.support.stripe import KEY, account
from tests.support.system import System, Tab, ago
from tests.support.wait import until

Opens = Callable[[Path], AbstractAsyncContextManager[Shop]]
shops = pytest.mark.parametrize("opens", [paddle, stripe], ids=["paddle", "stripe"])

PAUSE_S = 0.25
"""Minimum time between two calls that a tenant's pages cause, instead of seconds."""

MADE_UP = (1, 10**15, 1_700_000_000_000_000, int(time.time() * 1e6) + 3_600_000_000, 2**53 - 1)
"""Versions that nobody has ever had."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expects ask the provider soon."""
    monkeypatch.setattr("gateway.ws.expects.PROVIDER_DELAY_S", 0.1)


@asynccontextmanager
async def selling(store_url: str, directory: Path, opens: Opens) -> AsyncIterator[tuple[Shop, System]]:
    """A shop and a system with a worker; both without webhooks."""
    async with (
        opens(directory) as shop,
        run_cases(store_url, directory, **shop.settings) as system,
        system.working(comparison_pause_s=PAUSE_S, checkout_pause_s=PAUSE_S),
    ):
        yield shop, system


async def is_known(shop: Shop, system: System, tenant: str = "payer") -> None:
    """Buy a plan; an operator's comparison, which may search, makes it known."""
    await shop.buy(tenant, "basic")
    await system.ask("POST", f"/v1/tenants/{tenant}/reconcile")
    shop.asked.clear()


@shops
async def test_s72_a_storm_lists_nothing_and_a_paying_tenant_is_repaired(
    store_url: str, tmp_path: Path, opens: Opens
) -> None:
    """A tenant without any purchase storms: with expects, and with versions that the store has never had."""
    async with selling(store_url, tmp_path, opens) as (shop, system):
        await is_known(shop, system)
        async with system.tab("tenant:stranger") as storming, system.tab("tenant:payer") as paying:
            await paying.until(lambda tab: tab.plan == "basic")

            async def storm() -> None:
                for number in range(2**31):
                    await storming.client.send(
                        "expect", topic="tenant:stranger", after=number, timeout_ms=1 + number % 30_000
                    )
                    await storming.client.send(
                        "subscribe", topic="tenant:stranger", version=MADE_UP[number % len(MADE_UP)]
                    )
                    await asyncio.sleep(0.05)

            storming_on = asyncio.create_task(storm())
            await shop.change("payer", "pro")
            await paying.client.send("expect", topic="tenant:payer", after=paying.version, timeout_ms=30_000)
            await paying.until(lambda tab: tab.plan == "pro", timeout_s=10)
            storming_on.cancel()
        for version in MADE_UP:
            async with system.tab("tenant:stranger", held=version) as tab:
                await tab.until(lambda tab: tab.resets == 1)
        queue = system.store.keys.reconcile
        await until(lambda: is_empty(system, queue), 15)
        assert shop.lists == []


async def is_empty(system: System, *queues: str) -> bool:
    return not any([await system.store.redis.zcard(queue) for queue in queues])


@shops
async def test_s72_one_tenant_s_storm_has_its_own_provider_asked_at_intervals(
    store_url: str, tmp_path: Path, opens: Opens
) -> None:
    async with selling(store_url, tmp_path, opens) as (shop, system):
        await is_known(shop, system)
        async with system.tab("tenant:payer") as tab:
            await tab.until(lambda tab: tab.plan == "basic")
            began = time.monotonic()
            for number in range(60):
                await tab.client.send("expect", topic="tenant:payer", after=tab.version + number, timeout_ms=30_000)
                await asyncio.sleep(0.02)
            keys = system.store.keys
            await until(lambda: is_empty(system, keys.reconcile, keys.repeated), 15)
        calls = [call for call in shop.asked if "subscriptions/" in call]
        assert 1 <= len(calls) <= 1 + (time.monotonic() - began) / PAUSE_S
        assert shop.lists == []


@shops
async def test_s72_a_tenant_with_overrides_alone_is_not_searched(store_url: str, tmp_path: Path, opens: Opens) -> None:
    async with selling(store_url, tmp_path, opens) as (shop, system):
        await shop.buy("other")
        grant = {"kind": "plan", "name": "pro", "reason": "a partner", "expires_at": ago(-3600)}
        await system.ask("POST", "/v1/tenants/granted/overrides", grant)
        topic = "tenant:granted"
        async with system.tab(topic, held=MADE_UP[-1]) as tab:
            await tab.until(lambda tab: tab.plan == "pro")
            await tab.client.send("expect", topic=topic, after=tab.version, timeout_ms=1000)
            await tab.next("expired")
        audits = system.store.keys.audits("live")
        await system.store.redis.zadd(audits, {topic: 1})
        await system.ask("POST", "/v1/tenants/granted/reconcile")

        async def is_audited() -> bool:
            score = await system.store.redis.zscore(audits, topic)
            is_planned = score is not None and score > time.time() * 1e6
            return is_planned and await is_empty(system, system.store.keys.reconcile)

        await until(is_audited, 15)
        assert shop.lists == []


async def is_read(system: System, topic: str, checkout: str) -> bool:
    """Whether a worker is done with a checkout."""
    read: Any = await system.store.redis.get(system.store.keys.checkout_read(topic, checkout))
    return read is not None and not read.isdigit()


async def returns(tab: Tab, checkout: str, timeout_ms: int = 30_000) -> None:
    """The tab's page comes back from a checkout."""
    await tab.client.send("expect", topic=tab.topic, after=tab.version, timeout_ms=timeout_ms, checkout=checkout)
    await tab.next("pending")


@shops
@pytest.mark.parametrize("by", ["subscription", "checkout"])
async def test_s73_one_request_makes_the_page_right_without_a_webhook(
    store_url: str, tmp_path: Path, opens: Opens, by: str
) -> None:
    async with selling(store_url, tmp_path, opens) as (shop, system), system.tab("tenant:acme") as tab:
        await tab.until(lambda tab: tab.shown)
        checkout = await shop.buy("acme", "pro", by=by)
        await returns(tab, checkout)
        await tab.until(lambda tab: tab.plan == "pro", timeout_s=10)
        assert (tab.cause["source"], tab.cause["event_type"]) == ("reconcile", "checkout")
        # Stripe shows the subscription with the checkout; Paddle has to be asked for it.
        read, *fetched = shop.calls
        assert checkout in read
        assert ["/subscriptions/" in call for call in fetched] == ([True] if "/transactions/" in read else [])
        # The answer is remembered: a page that comes back again costs nothing, and is told that the state contains it.
        calls = list(shop.calls)
        await returns(tab, checkout)
        assert (await contained(tab))["checkout"] == checkout
        assert shop.calls == calls


async def contained(tab: Tab) -> dict[str, Any]:
    """The frame that says that the state contains the checkout."""
    while "checkout" not in (frame := await tab.next("current", "expired")):
        assert frame["type"] == "current"
    return frame


@shops
async def test_s73_a_page_that_comes_after_the_webhook_need_not_wait_until_its_time_is_up(
    store_url: str, tmp_path: Path, opens: Opens
) -> None:
    """The commonest order: the plan is there when the page loads. No newer version will follow."""
    async with selling(store_url, tmp_path, opens) as (shop, system):
        checkout = await shop.buy("acme")
        await shop.deliver(system)
        async with system.tab("tenant:acme") as tab:
            await tab.until(lambda tab: tab.plan == "pro")
            shown = tab.version
            await returns(tab, checkout)
            assert (await contained(tab))["version"] == shown == tab.version


@shops
async def test_s73_many_tabs_of_a_tenant_with_one_checkout_have_it_read_once(
    store_url: str, tmp_path: Path, opens: Opens
) -> None:
    async with selling(store_url, tmp_path, opens) as (shop, system), AsyncExitStack() as stack:
        checkout = await shop.buy("acme")
        tabs = [await stack.enter_async_context(system.tab("tenant:acme")) for _ in range(8)]
        for tab in tabs * 3:
            await returns(tab, checkout)
        for tab in tabs:
            await tab.until(lambda tab: tab.plan == "pro", timeout_s=10)
        assert len([call for call in shop.calls if checkout in call]) == 1
        assert len(shop.calls) <= 2


@shops
@pytest.mark.parametrize("by", ["subscription", "checkout", "nothing"])
async def test_s73_a_stranger_s_checkout_gives_this_tenant_nothing(
    store_url: str, tmp_path: Path, opens: Opens, by: str
) -> None:
    async with (
        selling(store_url, tmp_path, opens) as (shop, system),
        system.tab("tenant:acme") as tab,
        system.tab("tenant:owner") as owner,
    ):
        checkout = await shop.buy("owner", "pro", by=by)
        await returns(tab, checkout)
        await until(lambda: is_read(system, tab.topic, checkout))
        assert (await system.read("tenant:acme"))["state"] is None
        assert (await system.read("tenant:owner"))["state"] is None
        assert 1 <= len(shop.calls) <= (3 if by == "nothing" else 2)
        # What a stranger has asked for does not keep its owner from it.
        if by != "nothing":
            await returns(owner, checkout)
            await owner.until(lambda tab: tab.plan == "pro", timeout_s=10)
        await tab.fence()
        assert tab.plan is None


@shops
async def test_s73_made_up_checkouts_are_read_once_and_at_intervals(
    store_url: str, tmp_path: Path, opens: Opens
) -> None:
    async with selling(store_url, tmp_path, opens) as (shop, system), system.tab("tenant:acme") as tab:
        prefix = (await shop.buy("other")).partition("_")[0]
        began = time.monotonic()
        for number in range(40):
            checkout = f"{prefix}_madeup{number % 5}"
            await tab.client.send("expect", topic=tab.topic, after=number, timeout_ms=30_000, checkout=checkout)
            await asyncio.sleep(0.02)
        await tab.client.send("expect", topic=tab.topic, after=99, timeout_ms=30_000, checkout="not an id")
        assert (await tab.next("error"))["code"] == "bad_frame"
        await until(lambda: len(shop.calls) >= 5, 40)
        keys = system.store.keys
        await until(lambda: is_empty(system, keys.checkouts, keys.doubtful_checkouts), 40)
        assert len(shop.calls) == len(set(shop.calls)) == 5
        # The pause doubles twice.
        assert time.monotonic() - began >= PAUSE_S * (1 + 2 + 4 + 4)
        assert shop.lists == []


async def test_s73_a_checkout_that_is_not_paid_yet_is_read_again(store_url: str, tmp_path: Path) -> None:
    """The page is back before the provider is done."""
    async with account() as shop:
        keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": shop.url, "STRIPE_API_RATE_PER_S": "1000"}
        async with (
            run_cases(store_url, tmp_path, **keys) as system,
            system.working(checkout_pause_s=PAUSE_S),
            system.tab() as tab,
        ):
            session_id = shop.add_session(None, metadata={"tenant_id": "acme"})
            await returns(tab, session_id)
            await until(lambda: shop.asked, 10)
            session = shop.sessions[session_id]
            session["subscription"] = shop.add(None, "price_pro_live")
            session["status"], session["payment_status"] = "complete", "paid"
            await tab.until(lambda tab: tab.plan == "pro", timeout_s=10)


@shops
async def test_s73_a_webhook_that_comes_after_all_changes_nothing(store_url: str, tmp_path: Path, opens: Opens) -> None:
    async with selling(store_url, tmp_path, opens) as (shop, system), system.tab("tenant:acme") as tab:
        await returns(tab, await shop.buy("acme"))
        await tab.until(lambda tab: tab.plan == "pro", timeout_s=10)
        shown = tab.version
        await shop.deliver(system)
        await tab.fence()
        assert (tab.version, tab.plan) == (shown, "pro")


PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
CLIENT = Path(__file__).parents[2] / "clients" / "js-snippet" / "planwire.js"
BROWSER = """
Object.defineProperty(globalThis, "navigator", { value: { onLine: true }, configurable: true });
globalThis.addEventListener = () => {};
globalThis.location = { search: "?checkout=%s" };
globalThis.fetch = async () => ({ text: async () => "%s" });
const show = (id) => ({ set textContent(text) { console.log(`${id}: ${text}`); } });
globalThis.document = { getElementById: show };
"""
"""What the page of the docs needs of a browser. Each text that it shows is a line on standard output."""


@asynccontextmanager
async def success_page(system: System, directory: Path, checkout: str) -> AsyncIterator[asyncio.StreamReader]:
    """The success page of docs/providers.md, as it is written there; yields what it shows."""
    node = shutil.which("node")
    if node is None:
        missing("no node to run the browser client (Debian: apt-get install nodejs)")
    (script,) = re.findall(r'<script type="module">\n(.*?)</script>', PAGE.read_text(), re.S)
    script = script.replace("https://live.example.com/client/planwire.js", CLIENT.as_uri())
    script = script.replace("https://live.example.com", f"ws://127.0.0.1:{system.gateway.port}")
    program = directory / "success.mjs"
    program.write_text(BROWSER % (checkout, token()) + script)
    process = await asyncio.create_subprocess_exec(
        node, "--experimental-websocket", "--no-warnings", str(program), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


@shops
@pytest.mark.parametrize("is_first", [True, False], ids=["webhook first", "no webhook"])
async def test_s73_the_success_page_of_the_docs_is_right(
    store_url: str, tmp_path: Path, opens: Opens, is_first: bool
) -> None:
    """The tenant has had a state before, and the page is loaded anew: what it gets first is not the answer."""
    async with selling(store_url, tmp_path, opens) as (shop, system):
        await system.ask(
            "POST", "/v1/publish", {"topic": "tenant:acme", "state": {"plan": {"key": "free", "name": "Free"}}}
        )
        checkout = await shop.buy("acme")
        if is_first:
            await shop.deliver(system)
        shown: list[str] = []
        async with success_page(system, tmp_path, checkout) as page, asyncio.timeout(20):
            while not shown or not shown[-1].startswith("payment:"):
                shown.append((await page.readline()).decode().strip())
        assert shown[-2:] == ["plan: Pro", "payment: Thank you! Your payment has arrived."]
