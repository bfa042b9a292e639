"""The browser client in Firefox: what the Chromium tests show of one engine, once more on the other.

Unlike headless Chromium's, its tabs behind the one in front are hidden, with throttled timers, as a user's are.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.support import firefox
from tests.support.client_pages import (
    BUSY_S,
    CLIENT,
    CSP,
    HEARTBEAT_S,
    PROBE_JS,
    RENEWAL_S,
    SILENCE_S,
    STEADY_S,
    TOKEN_TTL_S,
    ClientPages,
    ProbedPage,
    sole_holder,
)
from tests.support.gateway import Running
from tests.support.proxy import Proxy, run_proxy
from tests.support.wait import until

TABS = 8
PNG = b"\x89PNG"


class FirefoxTab(ProbedPage):
    """One tab of Firefox with the probe in it."""

    def __init__(self, window: firefox.Window) -> None:
        super().__init__(window)
        self.window = window


class FirefoxPages(ClientPages):
    """Pages of Firefox."""

    def __init__(self, gateway: Running, proxy: Proxy, session: firefox.Session) -> None:
        super().__init__(gateway, proxy)
        self.session = session

    async def open(self, query: str = "") -> FirefoxTab:
        """A new tab with the probe, in front of the others."""
        tab = FirefoxTab(await self.session.open())
        await tab.window.goto(f"{self.url}/probe/?{query}")
        return tab

    async def reply(self, url: str) -> firefox.Reply | None:
        """Answer for the probe and for the client's files, so that a page loads while the network fails."""
        path = urlsplit(url).path
        if path == "/probe/token":
            return firefox.Reply(self.token())
        if path == "/probe/probe.js":
            return firefox.Reply(PROBE_JS, "text/javascript")
        if path == "/probe/":
            return firefox.Reply(self.html(), "text/html", (("Content-Security-Policy", CSP),))
        return firefox.Reply((CLIENT / path.rpartition("/")[2]).read_text(), "text/javascript")


PATHS = (
    "/probe/",
    "/probe/probe.js",
    "/probe/token",
    *(f"/client/{name}.js" for name in ("planwire", "tabs", "fallback", "storage")),
)


@pytest.fixture(scope="module")
def fox() -> Iterator[str]:
    with firefox.firefox() as url:
        yield url


@pytest.fixture
async def pages(fox: str, gateways: Callable[[], Awaitable[Running]]) -> AsyncIterator[FirefoxPages]:
    gateway = await gateways()
    async with run_proxy("127.0.0.1", gateway.port) as proxy, firefox.session(fox) as session:
        pages = FirefoxPages(gateway, proxy, session)
        await session.respond(pages.reply, *PATHS)
        yield pages


# Firefox complains of each connection that is given up.
@pytest.mark.parametrize("heartbeat_s", [STEADY_S], ids=["steady"])
async def test_an_upgrade_is_painted_under_a_strict_policy(pages: FirefoxPages) -> None:
    tab = await pages.open()
    await pages.publish(1)
    await tab.shows(1)
    version = await pages.publish(2)
    await tab.shows(2)
    assert (await tab.last())["version"] == version
    assert (await tab.window.screenshot()).startswith(PNG)
    await tab.never_went_back()
    assert not tab.window.complaints


@pytest.mark.parametrize(
    ("fault", "reason", "heartbeat_s", "bound_s"),
    [
        (Proxy.reset, "1006", STEADY_S, 0.0),
        (Proxy.freeze, "silence", HEARTBEAT_S, SILENCE_S),
        (Proxy.half_open, "silence", HEARTBEAT_S, SILENCE_S),
    ],
    ids=["reset", "freeze", "half-open"],
)
async def test_a_failing_network_is_told_within_its_bound_and_made_good(
    pages: FirefoxPages, fault: Callable[[Proxy], None], reason: str, bound_s: float
) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    pages.proxy.is_refusing = True
    at_s = time.time()
    fault(pages.proxy)
    await pages.publish(2)
    stale = await tab.turns("stale")
    assert (stale["n"], stale["reason"]) == (1, reason)
    assert stale["at"] / 1000 - at_s < bound_s + BUSY_S
    pages.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_restarted_gateway_is_found_again(
    pages: FirefoxPages, gateways: Callable[[], Awaitable[Running]]
) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    pages.proxy.is_refusing = True
    pages.gateway = await gateways()
    pages.proxy.is_refusing = False
    pages.proxy.target = ("127.0.0.1", pages.gateway.port)
    await pages.publish(2)
    await tab.shows(2)
    assert "stale" in [entry["status"] for entry in await tab.log()]
    await tab.never_went_back()


@pytest.mark.parametrize("heartbeat_s", [RENEWAL_S], ids=["steadier"])
async def test_an_expired_token_is_replaced_and_a_short_one_renewed(pages: FirefoxPages) -> None:
    await pages.publish(1)
    pages.token_age_s = 3600
    tab = await pages.open()
    await until(lambda: pages.tokens > 1, timeout_s=20)
    assert (await tab.last())["status"] == "connecting"
    pages.token_age_s, pages.token_ttl_s = 0, TOKEN_TTL_S
    await tab.shows(1)
    count = pages.tokens
    await until(lambda: pages.tokens > count + 1, timeout_s=20)
    await pages.publish(2)
    await tab.shows(2)
    assert "stale" not in [entry["status"] for entry in await tab.log()]


async def test_a_blocked_websocket_is_replaced_by_an_event_stream(pages: FirefoxPages) -> None:
    await pages.publish(1)
    tab = await pages.open("socket=fallback&blocked")
    await tab.shows(1)
    await pages.publish(2)
    await tab.shows(2)
    assert not pages.gateway.node.registry.sockets
    await tab.never_went_back()


async def test_a_new_visit_starts_with_the_last_state_as_stale(pages: FirefoxPages) -> None:
    await pages.publish(1)
    tab = await pages.open("stored")
    await tab.shows(1)
    pages.proxy.is_refusing = True
    pages.proxy.cut()
    await tab.window.reload()
    await tab.shows(1, "stale")
    first = (await tab.log())[0]
    assert (first["n"], first["status"], first["reason"]) == (1, "stale", "stored")
    await pages.publish(2)
    pages.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()


async def test_eight_tabs_share_a_socket_and_outlive_the_one_that_holds_it(pages: FirefoxPages) -> None:
    await pages.publish(1)
    tabs = [await pages.open("socket=tabs") for _ in range(TABS)]
    for tab in tabs:
        await tab.shows(1)
    leader = await sole_holder(pages, tabs)
    tabs.remove(leader)
    await leader.window.close()
    await sole_holder(pages, tabs)
    await pages.publish(2)
    for tab in tabs:
        await tab.shows(2)
        await tab.never_went_back()
    await sole_holder(pages, tabs)
    pages.proxy.reset()
    await pages.publish(3)
    for tab in tabs:
        await tab.shows(3)
        await tab.never_went_back()
