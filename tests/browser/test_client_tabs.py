"""Eight tabs of one browser share one socket, and lose nothing when the tab that holds it goes."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from playwright.async_api import Error

from tests.browser.conftest import Laboratory, Tab
from tests.support.wait import until

pytestmark = pytest.mark.browser

TABS = 8
TAKEOVER_S = 0.5
SLACK_S = 1.0
"""For a busy machine, where a whole browser hangs on; the client's own bounds are held to in its unit tests."""

HANG_S = 2.5
"""Longer than both together: until then, nobody but a new leader can show anything new."""


@pytest.fixture
def heartbeat_s() -> float:
    """So rare that silence is noticed long after a hang has ended."""
    return 2.0


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


async def is_replaced(laboratory: Laboratory, others: list[Tab], gone_at_s: float) -> None:
    """Check that what is published while the leader is silent is shown in time, and that nobody was stale meanwhile."""
    await laboratory.publish(2)
    for tab in others:
        await tab.shows(2, timeout_s=4)
        log = await tab.log()
        first = next(entry for entry in log if entry["n"] == 2)
        assert first["at"] / 1000 - gone_at_s < TAKEOVER_S + SLACK_S
        assert "stale" not in [entry["status"] for entry in log]
        await tab.never_went_back()


async def test_a_frozen_leader_is_replaced_and_follows_when_it_thaws(laboratory: Laboratory) -> None:
    leader, others = await open_all(laboratory)
    session = await laboratory.context.new_cdp_session(leader.page)
    at_s = time.time()
    await session.send("Page.setWebLifecycleState", {"state": "frozen"})
    await is_replaced(laboratory, others, at_s)
    await laboratory.publish(3)
    await session.send("Page.setWebLifecycleState", {"state": "active"})
    for tab in (leader, *others):
        await tab.shows(3)
        await tab.never_went_back()
    await until(lambda: len(laboratory.gateway.node.pulse.sockets) == 1)


async def test_a_leader_that_hangs_is_replaced_for_who_expects_and_follows_when_it_is_done(
    laboratory: Laboratory,
) -> None:
    leader, others = await open_all(laboratory)
    at_s = time.time()
    hang = asyncio.ensure_future(
        leader.page.evaluate(
            "ms => { const end = performance.now() + ms; while (performance.now() < end); }", 1000 * HANG_S
        )
    )
    await others[0].page.evaluate("window.came = window.topic.expect(), 0")
    await is_replaced(laboratory, others, at_s)
    assert await others[0].page.evaluate("window.came")
    await hang
    await laboratory.publish(3)
    for tab in (leader, *others):
        await tab.shows(3)
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
