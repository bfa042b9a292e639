"""Consoles' leases and gateways' registrations, on the store in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.console.reports import lease
from gateway.console.reports.lease import GONE_S, LEASE_S, WATCHED_MAX
from sync.store.models import Change
from sync.store.store import Store


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The machine's clock, as a list of one number that a test may change."""
    clock = [time.time()]
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock[0])
        yield clock


async def test_without_a_console_a_gateway_registers_and_has_nothing_to_report(store: Store) -> None:
    assert await lease.register(store, "a") is None
    assert list(await lease.gateways(store)) == ["a"]


async def test_a_gateway_learns_the_topics_that_consoles_show(store: Store, now: list[float]) -> None:
    await lease.touch_lease(store, [])
    assert await lease.register(store, "a") == []
    await lease.touch_lease(store, ["tenant:acme"])
    assert await lease.register(store, "a") == ["tenant:acme"]
    now[0] += LEASE_S + 1
    assert await lease.register(store, "a") is None, "the console was closed"


async def test_leases_are_bounded_and_the_newest_stay(store: Store, now: list[float]) -> None:
    for number in range(WATCHED_MAX + 10):
        now[0] += 0.001
        await lease.touch_lease(store, [f"tenant:t{number}"])
    topics = await lease.register(store, "a")
    assert topics is not None
    assert len(topics) <= WATCHED_MAX
    assert f"tenant:t{WATCHED_MAX + 9}" in topics
    assert "tenant:t0" not in topics


async def test_a_gateway_that_leaves_or_is_silent_is_removed(store: Store, now: list[float]) -> None:
    await lease.register(store, "a")
    await lease.register(store, "b")
    await lease.leave(store, "b")
    assert list(await lease.gateways(store)) == ["a"]
    now[0] += GONE_S + 1
    await lease.register(store, "c")
    assert list(await lease.gateways(store)) == ["c"]


async def test_a_report_expires_with_its_log(store: Store) -> None:
    redis: Any = store.redis
    for number in range(3):
        await lease.publish(store, Change("console:a", b'{"n":%d}' % number))
    assert await redis.xlen(store.keys.log("console:a")) == 1
    for key in (store.keys.log("console:a"), store.keys.snap("console:a")):
        assert 0 < await redis.ttl(key) <= lease.KEEP_S
