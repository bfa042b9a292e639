"""Fixtures of the browser tests: a gateway, and Chromium with a proxy that fails on purpose in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from playwright.async_api import Browser, BrowserContext, expect

from tests.support.chromium import chromium
from tests.support.client_pages import HEARTBEAT_S, ChromiumPages, Restart
from tests.support.gateway import Running, environment, run_gateway
from tests.support.proxy import run_proxy
from tests.support.window import window

SWITCHES = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # A page that the driver answers for is in no address space; a real one would be on loopback, as the gateway is.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
)

# The tests check what a page shows in the end, not how soon.
expect.set_options(timeout=20_000)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    # As it is for users: pages are kept for the way back.
    async with chromium(*SWITCHES, without=("--disable-back-forward-cache",)) as browser:
        yield browser


@pytest.fixture
def heartbeat_s() -> float:
    """Overridden where silence must not be what a test notices."""
    return HEARTBEAT_S


@pytest.fixture
async def gateways(store_url: str, heartbeat_s: float) -> AsyncIterator[Callable[[], Awaitable[Running]]]:
    """Starts a gateway, ending the one before."""
    environ = environment(
        store_url,
        DEV="1",
        HEARTBEAT_S=str(heartbeat_s),
        PROBE_S="2",
        SWEEP_S="1",
        RECONNECT_MIN_MS="100",
        RECONNECT_MAX_MS="1000",
    )
    stack = AsyncExitStack()

    async def start() -> Running:
        await stack.aclose()
        return await stack.enter_async_context(run_gateway(environ))

    yield start
    await stack.aclose()


@asynccontextmanager
async def set_up(gateway: Running, context: BrowserContext) -> AsyncIterator[ChromiumPages]:
    """Open pages in `context`."""
    async with run_proxy("127.0.0.1", gateway.port) as proxy:
        pages = ChromiumPages(gateway, proxy, context)
        await context.route("**/probe/**", pages.serve_probe)
        await context.route("**/client/*.js", pages.serve_client)
        yield pages
        await context.close()
        await asyncio.sleep(0)


@pytest.fixture
async def pages(browser: Browser, gateways: Callable[[], Awaitable[Running]]) -> AsyncIterator[ChromiumPages]:
    async with set_up(await gateways(), await browser.new_context()) as pages:
        yield pages


@pytest.fixture
async def windowed(gateways: Callable[[], Awaitable[Running]]) -> AsyncIterator[ChromiumPages]:
    """Pages of a Chromium with one window: all tabs but the front one are hidden, and can be frozen."""
    async with window(*SWITCHES) as context, set_up(await gateways(), context) as pages:
        yield pages


@pytest.fixture
async def restart(pages: ChromiumPages, gateways: Callable[[], Awaitable[Running]]) -> Restart:
    """Stops the gateway and starts another behind the same proxy."""

    async def again() -> None:
        # Nobody may take the old port and answer in between.
        pages.proxy.is_refusing = True
        pages.gateway = await gateways()
        pages.proxy.is_refusing = False
        pages.proxy.target = ("127.0.0.1", pages.gateway.port)

    return again
