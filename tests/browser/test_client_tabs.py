"""Eight tabs of one browser share one socket, and lose nothing when the tab that holds it goes."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from playwright.async_api import Error

from tests.browser.conftest import BUSY_S, Laboratory, Tab, sole_holder

pytestmark = pytest.mark.browser

TABS = 8
TAKEOVER_S = 0.5
"""The client's own bound, held to by the clock in its unit tests; here a whole browser may be slow."""

HANG_S = 4.0
"""Longer than that and BUSY_S together: until then, nobody but a new leader can show anything new."""

HANG = "ms => { console.log('hangs'); const end = performance.now() + ms; while (performance.now() < end); }"

HIDE = "Object.defineProperty(document, 'hidden', { get: () => true }), 0"
"""Hidden tabs do not look after their leader: it is replaced for the reason that is tested, or seconds later."""


@pytest.fixture
def heartbeat_s() -> float:
    """So rare that silence is noticed long after everything here has ended."""
    return 4.0


async def open_all(laboratory: Laboratory) -> tuple[Tab, list[Tab]]:
    """Open the tabs, wait until all are fresh; return the leader and the others, which are hidden."""
    await laboratory.publish(1)
    tabs = [await laboratory.open("socket=tabs") for _ in range(TABS)]
    for tab in tabs:
        await tab.shows(1)
    leader = await sole_holder(laboratory, tabs)
    others = [tab for tab in tabs if tab is not leader]
    for tab in others:
        await tab.page.evaluate(HIDE)
    return leader, others


async def takes_over(laboratory: Laboratory, others: list[Tab], gone_at_s: float) -> None:
    """Check that another tab connects in time, and that all the others follow it and were never stale."""
    successor = await sole_holder(laboratory, others)
    assert await successor.connected_at_s() - gone_at_s < TAKEOVER_S + BUSY_S
    for n in (2, 3):
        await laboratory.publish(n)
        for tab in others:
            await tab.shows(n)
    for tab in others:
        assert "stale" not in [entry["status"] for entry in await tab.log()]
        await tab.never_went_back()
    await sole_holder(laboratory, others)


async def test_all_follow_over_one_socket(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    for n in range(2, 12):
        await laboratory.publish(n)
    for tab in (leader, *others):
        await tab.shows(11)
        await tab.never_went_back()
    await sole_holder(laboratory, [leader, *others])


async def test_a_closed_leader_is_replaced(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    await leader.page.close()
    await takes_over(laboratory, others, time.time())


async def is_replaced(laboratory: Laboratory, others: list[Tab], gone_at_s: float) -> None:
    """Check that what is published while the leader is silent is shown in time, and that nobody was stale meanwhile."""
    await laboratory.publish(2)
    for tab in others:
        await tab.shows(2)
        log = await tab.log()
        first = next(entry for entry in log if entry["n"] == 2)
        assert first["at"] / 1000 - gone_at_s < TAKEOVER_S + BUSY_S
        assert "stale" not in [entry["status"] for entry in log]
        await tab.never_went_back()


async def test_a_frozen_leader_is_replaced_and_follows_when_it_thaws(laboratory: Laboratory) -> None:
    """As a page sees it: the event, then nothing until it thaws. (A driven Chromium freezes no page that it shows.)"""
    leader, others = await open_all(laboratory)
    at_s = time.time()
    await leader.page.evaluate("document.dispatchEvent(new Event('freeze')), 0")
    frozen = asyncio.ensure_future(leader.page.evaluate(HANG, 1000 * HANG_S))
    await is_replaced(laboratory, others, at_s)
    await frozen
    await laboratory.publish(3)
    for tab in (leader, *others):
        await tab.shows(3)
        await tab.never_went_back()
    await sole_holder(laboratory, [leader, *others])


async def test_a_leader_that_hangs_is_replaced_for_who_expects_and_follows_when_it_is_done(
    laboratory: Laboratory,
) -> None:
    leader, others = await open_all(laboratory)
    at_s = time.time()
    async with leader.page.expect_console_message():
        hang = asyncio.ensure_future(leader.page.evaluate(HANG, 1000 * HANG_S))
    await others[0].page.evaluate("window.came = window.topic.expect(), 0")
    await is_replaced(laboratory, others, at_s)
    assert await others[0].page.evaluate("window.came")
    await hang
    await laboratory.publish(3)
    for tab in (leader, *others):
        await tab.shows(3)
        await tab.never_went_back()
    await sole_holder(laboratory, [leader, *others])


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
    await sole_holder(laboratory, [leader, *others])
