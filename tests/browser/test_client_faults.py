"""The browser client in Chromium, against the real gateway, while the network and the gateway fail.

Under each fault the page ends on the newest version, never shows a lower one, and says `stale` within its bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from playwright.async_api import Route

from tests.browser.conftest import BUSY_S, RENEWAL_S, SILENCE_S, STEADY_S, TOKEN_TTL_S, TOPIC, Laboratory, Restart
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


async def test_a_page_under_a_strict_policy_follows(laboratory: Laboratory) -> None:
    tab = await laboratory.open()
    complaints: list[str] = []
    tab.page.on("console", lambda message: complaints.append(message.text))
    version = await laboratory.publish(1)
    await tab.shows(1)
    assert (await tab.last())["version"] == version
    await laboratory.publish(2)
    await tab.shows(2)
    await tab.never_went_back()
    assert not complaints


@pytest.mark.parametrize("heartbeat_s", [STEADY_S], ids=["steady"])
@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.reset], ids=["cut", "reset"])
async def test_a_lost_connection_is_told_at_once_and_made_good(
    laboratory: Laboratory, fault: Callable[[Proxy], None]
) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    laboratory.proxy.is_refusing = True
    at_s = time.time()
    fault(laboratory.proxy)
    stale = await tab.turns("stale")
    # By the socket's end, and not by the silence after it.
    assert stale["reason"] in CLOSE_CODES
    assert stale["at"] / 1000 - at_s < BUSY_S
    await laboratory.publish(2)
    assert (await tab.last())["n"] == 1
    laboratory.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()


@pytest.mark.parametrize("fault", [Proxy.freeze, half_open, swallow_to_client], ids=["freeze", "half-open", "swallow"])
async def test_a_silent_connection_is_stale_within_its_bound_and_made_good(
    laboratory: Laboratory, fault: Callable[[Proxy], None]
) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    fault(laboratory.proxy)
    at_s = time.time()
    await laboratory.publish(2)
    stale = await tab.turns("stale")
    assert stale["reason"] == "silence"
    assert stale["n"] == 1
    assert stale["at"] / 1000 - at_s < SILENCE_S + BUSY_S
    laboratory.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_slow_network_ends_on_the_newest(laboratory: Laboratory) -> None:
    tab = await laboratory.open()
    laboratory.proxy.latency_s, laboratory.proxy.bytes_per_s = 0.2, 4000
    for n in range(1, 21):
        await laboratory.publish(n)
    await tab.shows(20)
    await tab.never_went_back()


async def test_a_restarted_gateway_is_found_again(laboratory: Laboratory, restart: Restart) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    await restart()
    await laboratory.publish(2)
    await tab.shows(2)
    assert "stale" in [entry["status"] for entry in await tab.log()]
    await tab.never_went_back()


async def test_connections_that_keep_failing_end_on_the_newest(laboratory: Laboratory) -> None:
    tab = await laboratory.open()
    for n in range(1, 9):
        await laboratory.publish(n)
        (laboratory.proxy.reset if n % 2 else laboratory.proxy.half_open)()
        await asyncio.sleep(0.15)
    # A connection that is lost while it is being made is given up after 10 s, and the way back takes up to 30 s.
    await tab.shows(8, timeout_s=60)
    await tab.never_went_back()


@pytest.mark.parametrize("heartbeat_s", [RENEWAL_S], ids=["steadier"])
async def test_a_token_is_renewed_before_it_ends(laboratory: Laboratory) -> None:
    laboratory.token_ttl_s = TOKEN_TTL_S
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    await asyncio.sleep(TOKEN_TTL_S)
    await laboratory.publish(2)
    await tab.shows(2)
    assert laboratory.tokens > 1
    # In band: the connection was never lost.
    assert {entry["status"] for entry in await tab.log()} <= {"connecting", "fresh"}


async def test_an_expired_token_is_replaced(laboratory: Laboratory) -> None:
    await laboratory.publish(1)
    laboratory.token_age_s = 3600
    tab = await laboratory.open()
    # It asks for a second one because the first was refused.
    await until(lambda: laboratory.tokens > 1, timeout_s=20)
    assert (await tab.last())["status"] == "connecting"
    laboratory.token_age_s = 0
    await tab.shows(1)


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_changed_clock_does_no_harm(laboratory: Laboratory, hours: int) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    await tab.page.evaluate(
        "hours => { window.skew = hours * 3600e3; window.dispatchEvent(new Event('online')); }", hours
    )
    await laboratory.publish(2)
    await tab.shows(2)
    laboratory.proxy.freeze()
    await tab.turns("stale")
    laboratory.proxy.heal()
    await laboratory.publish(3)
    await tab.shows(3)
    await tab.never_went_back()


@pytest.mark.parametrize("query", ["stored", "socket=tabs"])
async def test_a_page_from_the_back_forward_cache_is_right_again(laboratory: Laboratory, query: str) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open(query)
    await tab.shows(1)
    await tab.page.goto(f"{laboratory.url}/probe/?elsewhere")
    await until(lambda: len(laboratory.gateway.node.registry.sockets) == 1, timeout_s=20)
    await laboratory.publish(2)
    await tab.page.go_back(wait_until="commit")
    await tab.shows(2)
    assert await tab.page.evaluate("window.wasKept"), "Chromium did not keep the page"
    log = await tab.log()
    # What it showed on its return was not passed off as current.
    assert [entry["n"] for entry in log if entry["reason"] == "pagehide"] == [1]
    assert [entry["n"] for entry in log if entry["status"] == "fresh"][-1] == 2
    await tab.never_went_back()


async def test_a_paid_change_is_expected_and_comes(laboratory: Laboratory) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    assert not await tab.page.evaluate("window.topic.expect({ timeoutMs: 300 })")
    assert "expired" in [entry["reason"] for entry in await tab.log()]
    await tab.page.evaluate("window.came = window.topic.expect({ timeoutMs: 10000 }), 0")
    await laboratory.publish(2)
    assert await tab.page.evaluate("window.came")


async def test_a_blocked_websocket_is_replaced_by_an_event_stream(laboratory: Laboratory) -> None:
    await laboratory.context.route_web_socket("**/v1/connect", lambda socket: socket.close(code=1011))
    await laboratory.publish(1)
    tab = await laboratory.open("socket=fallback")
    await tab.shows(1)
    await laboratory.publish(2)
    await tab.shows(2)
    assert not laboratory.gateway.node.registry.sockets
    laboratory.proxy.reset()
    await laboratory.publish(3)
    await tab.shows(3)
    await tab.never_went_back()


async def test_where_streams_are_blocked_too_it_polls(laboratory: Laboratory) -> None:
    await laboratory.context.route("**/events", lambda route: route.abort())
    await laboratory.publish(1)
    tab = await laboratory.open("socket=fallback&blocked")
    await tab.shows(1)
    await laboratory.publish(2)
    await tab.shows(2)
    laboratory.proxy.reset()
    await laboratory.publish(3)
    await tab.shows(3)
    assert not laboratory.gateway.node.registry.sockets
    await tab.never_went_back()


async def test_where_streams_are_held_back_it_polls(laboratory: Laboratory) -> None:
    async def hold(route: Route) -> None:
        """Never answered: what a proxy that buffers looks like."""

    await laboratory.context.route("**/events", hold)
    await laboratory.publish(1)
    tab = await laboratory.open("socket=fallback&blocked")
    # Its patience with the stream is 5 s.
    await tab.shows(1)
    await laboratory.publish(2)
    await tab.shows(2)
    await tab.never_went_back()


@pytest.mark.parametrize("heartbeat_s", [STEADY_S], ids=["steady"])
async def test_an_erased_topic_is_denied_and_forgotten(laboratory: Laboratory) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open("stored")
    await tab.shows(1)
    assert await tab.page.evaluate("localStorage.length") == 1
    for socket in list(laboratory.gateway.node.registry.sockets):
        socket.end(TOPIC, "erased")
    denied = await tab.turns("denied")
    assert denied["reason"] == "erased"
    assert await tab.page.evaluate("localStorage.length") == 0


async def test_a_page_starts_with_what_its_server_put_into_it(laboratory: Laboratory) -> None:
    version = await laboratory.publish(1)
    laboratory.injected = {TOPIC: {"version": version, "state": {"n": 1}}}
    laboratory.proxy.is_refusing = True
    tab = await laboratory.open()
    await tab.shows(1, "stale")
    first = (await tab.log())[0]
    assert (first["n"], first["status"], first["reason"]) == (1, "stale", "page")
    laboratory.proxy.heal()
    await tab.shows(1)
    await laboratory.publish(2)
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_browser_without_network_says_offline_and_wakes_with_it(laboratory: Laboratory) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open()
    await tab.shows(1)
    await laboratory.context.set_offline(True)
    laboratory.proxy.cut()
    await tab.turns("offline")
    await laboratory.publish(2)
    await asyncio.sleep(1)
    assert (await tab.last())["status"] == "offline"
    await laboratory.context.set_offline(False)
    await tab.shows(2)
    await tab.never_went_back()


async def test_a_new_visit_starts_with_the_last_state_as_stale(laboratory: Laboratory) -> None:
    await laboratory.publish(1)
    tab = await laboratory.open("stored")
    await tab.shows(1)
    laboratory.proxy.is_refusing = True
    laboratory.proxy.cut()
    await tab.page.reload()
    await tab.shows(1, "stale")
    first = (await tab.log())[0]
    assert (first["n"], first["status"], first["reason"]) == (1, "stale", "stored")
    await laboratory.publish(2)
    laboratory.proxy.heal()
    await tab.shows(2)
    await tab.never_went_back()
