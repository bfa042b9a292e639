"""The browser client in Chromium, against the real gateway, while the network and the gateway fail.

Under each fault the page ends on the newest version, never shows a lower one, and says `stale` within its bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from playwright.async_api import Route

from tests.support.client_pages import (
    BUSY_S,
    RENEWAL_S,
    SILENCE_S,
    STEADY_S,
    TOKEN_TTL_S,
    TOPIC,
    ChromiumPages,
    Restart,
)
from tests.support.proxy import Proxy
from tests.support.wait import until

CLOSE_CODES = ("1005", "1006")
"""Of a socket that ended, in order or not, without a word."""


def half_open(proxy: Proxy) -> None:
    # A page that gets through again at once is stale for an instant only, too short to be seen from here.
    proxy.is_refusing = True
    proxy.half_open()


def swallow_to_client(proxy: Proxy) -> None:
    proxy.swallow(to_client=True)


async def test_a_page_under_a_strict_policy_follows(pages: ChromiumPages) -> None:
    tab = await pages.open()
    complaints: list[str] = []
    tab.page.on("console", lambda message: complaints.append(message.text))
    version = await pages.publish(1)
    await tab.shows(1)
    assert (await tab.last())["version"] == version
    await pages.publish(2)
    await tab.shows(2)
    await tab.never_went_back()
    assert not complaints


@pytest.mark.parametrize("heartbeat_s", [STEADY_S], ids=["steady"])
@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.reset], ids=["cut", "reset"])
async def test_a_lost_connection_is_told_at_once_and_made_good(
    pages: ChromiumPages, fault: Callable[[Proxy], None]
) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    pages.proxy.is_refusing = True
    at_s = time.time()
    fault(pages.proxy)
    stale = await tab.turns("stale")
    # By the socket's end, and not by the silence after it.
    assert stale["reason"] in CLOSE_CODES
    assert stale["at"] / 1000 - at_s < BUSY_S
    await pages.publish(2)
    assert (await tab.last())["n"] == 1
    pages.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()


@pytest.mark.parametrize("fault", [Proxy.freeze, half_open, swallow_to_client], ids=["freeze", "half-open", "swallow"])
async def test_a_silent_connection_is_stale_within_its_bound_and_made_good(
    pages: ChromiumPages, fault: Callable[[Proxy], None]
) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    fault(pages.proxy)
    at_s = time.time()
    await pages.publish(2)
    stale = await tab.turns("stale")
    assert stale["reason"] == "silence"
    assert stale["n"] == 1
    assert stale["at"] / 1000 - at_s < SILENCE_S + BUSY_S
    pages.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_slow_network_ends_on_the_newest(pages: ChromiumPages) -> None:
    tab = await pages.open()
    pages.proxy.latency_s, pages.proxy.bytes_per_s = 0.2, 4000
    for n in range(1, 21):
        await pages.publish(n)
    await tab.shows(20)
    await tab.never_went_back()


async def test_a_restarted_gateway_is_found_again(pages: ChromiumPages, restart: Restart) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    await restart()
    await pages.publish(2)
    await tab.shows(2)
    assert "stale" in [entry["status"] for entry in await tab.log()]
    await tab.never_went_back()


async def test_connections_that_keep_failing_end_on_the_newest(pages: ChromiumPages) -> None:
    tab = await pages.open()
    for n in range(1, 9):
        await pages.publish(n)
        (pages.proxy.reset if n % 2 else pages.proxy.half_open)()
        await asyncio.sleep(0.15)
    # A connection that is lost while it is being made is given up after 10 s, and the way back takes up to 30 s.
    await tab.shows(8, timeout_s=60)
    await tab.never_went_back()


@pytest.mark.parametrize("heartbeat_s", [RENEWAL_S], ids=["steadier"])
async def test_a_token_is_renewed_before_it_ends(pages: ChromiumPages) -> None:
    pages.token_ttl_s = TOKEN_TTL_S
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    await asyncio.sleep(TOKEN_TTL_S)
    await pages.publish(2)
    await tab.shows(2)
    assert pages.tokens > 1
    # In band: the connection was never lost.
    assert {entry["status"] for entry in await tab.log()} <= {"connecting", "fresh"}


async def test_an_expired_token_is_replaced(pages: ChromiumPages) -> None:
    await pages.publish(1)
    pages.token_age_s = 3600
    tab = await pages.open()
    # It asks for a second one because the first was refused.
    await until(lambda: pages.tokens > 1, timeout_s=20)
    assert (await tab.last())["status"] == "connecting"
    pages.token_age_s = 0
    await tab.shows(1)


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_changed_clock_does_no_harm(pages: ChromiumPages, hours: int) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    await tab.page.evaluate(
        "hours => { window.skew = hours * 3600e3; window.dispatchEvent(new Event('online')); }", hours
    )
    await pages.publish(2)
    await tab.shows(2)
    pages.proxy.freeze()
    await tab.turns("stale")
    pages.proxy.heal()
    await pages.publish(3)
    await tab.shows(3)
    await tab.never_went_back()


@pytest.mark.parametrize("query", ["stored", "socket=tabs"])
async def test_a_page_from_the_back_forward_cache_is_right_again(pages: ChromiumPages, query: str) -> None:
    await pages.publish(1)
    tab = await pages.open(query)
    await tab.shows(1)
    for n in (2, 3, 4):
        await tab.page.goto(f"{pages.url}/probe/?elsewhere")
        await until(lambda: len(pages.gateway.node.registry.sockets) == 1, timeout_s=20)
        await pages.publish(n)
        await tab.page.go_back(wait_until="commit")
        await tab.shows(n)
        if await tab.page.evaluate("window.wasKept"):
            break
        # On a busy machine Chromium may load the page anew instead.
    else:
        pytest.fail("Chromium did not keep the page")
    log = await tab.log()
    # What it showed on its return was not passed off as current.
    assert [entry["n"] for entry in log if entry["reason"] == "pagehide"] == [n - 1]
    assert [entry["n"] for entry in log if entry["status"] == "fresh"][-1] == n
    await tab.never_went_back()


async def test_a_paid_change_is_expected_and_comes(pages: ChromiumPages) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    assert not await tab.page.evaluate("window.topic.expect({ timeoutMs: 300 })")
    assert "expired" in [entry["reason"] for entry in await tab.log()]
    await tab.page.evaluate("window.came = window.topic.expect({ timeoutMs: 10000 }), 0")
    await pages.publish(2)
    assert await tab.page.evaluate("window.came")


async def test_a_blocked_websocket_is_replaced_by_an_event_stream(pages: ChromiumPages) -> None:
    await pages.context.route_web_socket("**/v1/connect", lambda socket: socket.close(code=1011))
    await pages.publish(1)
    tab = await pages.open("socket=fallback")
    await tab.shows(1)
    await pages.publish(2)
    await tab.shows(2)
    assert not pages.gateway.node.registry.sockets
    pages.proxy.reset()
    await pages.publish(3)
    await tab.shows(3)
    await tab.never_went_back()


async def test_where_streams_are_blocked_too_it_polls(pages: ChromiumPages) -> None:
    await pages.context.route("**/events", lambda route: route.abort())
    await pages.publish(1)
    tab = await pages.open("socket=fallback&blocked")
    await tab.shows(1)
    await pages.publish(2)
    await tab.shows(2)
    pages.proxy.reset()
    await pages.publish(3)
    await tab.shows(3)
    assert not pages.gateway.node.registry.sockets
    await tab.never_went_back()


async def test_where_streams_are_held_back_it_polls(pages: ChromiumPages) -> None:
    async def hold(route: Route) -> None:
        """Never answered: what a proxy that buffers looks like."""

    await pages.context.route("**/events", hold)
    await pages.publish(1)
    tab = await pages.open("socket=fallback&blocked")
    # It waits 5 s for the stream.
    await tab.shows(1)
    await pages.publish(2)
    await tab.shows(2)
    await tab.never_went_back()


@pytest.mark.parametrize("heartbeat_s", [STEADY_S], ids=["steady"])
async def test_an_erased_topic_is_denied_and_forgotten(pages: ChromiumPages) -> None:
    await pages.publish(1)
    tab = await pages.open("stored")
    await tab.shows(1)
    assert await tab.page.evaluate("localStorage.length") == 1
    for socket in list(pages.gateway.node.registry.sockets):
        socket.end(TOPIC, "erased")
    denied = await tab.turns("denied")
    assert denied["reason"] == "erased"
    assert await tab.page.evaluate("localStorage.length") == 0


async def test_a_page_starts_with_what_its_server_put_into_it(pages: ChromiumPages) -> None:
    version = await pages.publish(1)
    pages.injected = {TOPIC: {"version": version, "state": {"n": 1}}}
    pages.proxy.is_refusing = True
    tab = await pages.open()
    await tab.shows(1, "stale")
    first = (await tab.log())[0]
    assert (first["n"], first["status"], first["reason"]) == (1, "stale", "page")
    pages.proxy.heal()
    await tab.shows(1)
    await pages.publish(2)
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_browser_without_network_says_offline_and_wakes_with_it(pages: ChromiumPages) -> None:
    await pages.publish(1)
    tab = await pages.open()
    await tab.shows(1)
    await pages.context.set_offline(True)
    pages.proxy.cut()
    await tab.turns("offline")
    await pages.publish(2)
    await asyncio.sleep(1)
    assert (await tab.last())["status"] == "offline"
    await pages.context.set_offline(False)
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_new_visit_starts_with_the_last_state_as_stale(pages: ChromiumPages) -> None:
    await pages.publish(1)
    tab = await pages.open("stored")
    await tab.shows(1)
    pages.proxy.is_refusing = True
    pages.proxy.cut()
    await tab.page.reload()
    await tab.shows(1, "stale")
    first = (await tab.log())[0]
    assert (first["n"], first["status"], first["reason"]) == (1, "stale", "stored")
    await pages.publish(2)
    pages.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()
