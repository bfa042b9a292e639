"""Eight tabs of one browser share one socket, and lose nothing when the tab that holds it goes."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from playwright.async_api import Error

from tests.browser.conftest import SILENCE_S, Laboratory, Tab
from tests.support.wait import until

pytestmark = pytest.mark.browser

TABS = 8
TAKEOVER_S = 0.5


async def open_all(laboratory: Laboratory) -> tuple[Tab, list[Tab]]:
    """Open the tabs, wait until all are fresh; return the leader and the others."""
    await laboratory.publish(1)
    tabs = [await laboratory.open("socket=tabs") for _ in range(TABS)]
    for tab in tabs:
        await tab.shows(1)
    assert len(laboratory.gateway.node.pulse.sockets) == 1
    made = [await tab.page.evaluate("window.sockets") for tab in tabs]
    assert sum(made) == 1
    leader = tabs[made.index(1)]
    return leader, [tab for tab in tabs if tab is not leader]


async def takes_over(laboratory: Laboratory, others: list[Tab], gone_at_s: float) -> None:
    """Check that another tab connects in time, and that all the others follow it."""

    async def connected() -> bool:
        return bool([tab for tab in others if await tab.page.evaluate("window.sockets")])

    await until(connected, timeout_s=5, every_s=0.01)
    await laboratory.publish(2)
    for tab in others:
        await tab.shows(2)
        log = await tab.log()
        first = next(entry for entry in log if entry["n"] == 2)
        assert first["at"] / 1000 - gone_at_s < TAKEOVER_S
        await tab.never_went_back()
    assert len(laboratory.gateway.node.pulse.sockets) == 1
    await laboratory.publish(3)
    for tab in others:
        await tab.shows(3)


async def test_all_follow_over_one_socket(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    for n in range(2, 12):
        await laboratory.publish(n)
    for tab in (leader, *others):
        await tab.shows(11)
        await tab.never_went_back()
    assert len(laboratory.gateway.node.pulse.sockets) == 1


async def test_a_closed_leader_is_replaced(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    await leader.page.close()
    await takes_over(laboratory, others, time.time())


async def test_a_leader_told_that_it_is_frozen_is_replaced(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    # What Chromium tells a page before it freezes it; a headless tab always counts as visible, so it never does.
    await leader.page.evaluate("document.dispatchEvent(new Event('freeze'))")
    await takes_over(laboratory, others, time.time())


async def test_a_leader_that_hangs_is_found_out_and_robbed(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    at_s = time.time()
    hang = asyncio.ensure_future(
        leader.page.evaluate("(() => { const end = Date.now() + 6000; while (Date.now() < end); })()")
    )
    await laboratory.publish(2)
    for tab in others:
        await tab.shows(2, timeout_s=4)
        stale = next(entry for entry in await tab.log() if entry["reason"] == "silence")
        assert stale["at"] / 1000 - at_s < SILENCE_S + 0.8
    await hang
    for tab in (leader, *others):
        await tab.shows(2)
        await tab.never_went_back()
    await until(lambda: len(laboratory.gateway.node.pulse.sockets) == 1)


async def test_a_crashed_leader_is_replaced(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    session = await laboratory.context.new_cdp_session(leader.page)
    at_s = time.time()
    crash = asyncio.ensure_future(session.send("Page.crash"))
    try:
        await takes_over(laboratory, others, at_s)
    finally:
        crash.cancel()
        with contextlib.suppress(asyncio.CancelledError, Error):
            await crash


async def test_a_lost_network_is_told_to_every_tab(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    laboratory.proxy.is_refusing = True
    laboratory.proxy.reset()
    for tab in (leader, *others):
        await tab.turns("stale")
    await laboratory.publish(2)
    laboratory.proxy.heal()
    for tab in (leader, *others):
        await tab.shows(2)
        await tab.never_went_back()
    assert len(laboratory.gateway.node.pulse.sockets) == 1
