"""A tab that stops reading costs one slot per topic, is cut off in the end, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from sync.store.models import Change, Committed
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.slow_socket import open_slow_socket
from tests.support.wait import until

TOPICS = ("tenant:slow", "user:slow")
STATE_BYTES = 16_000
VERSIONS = 260
"""Together some 4 MB for each topic: more than every buffer between gateway and tab."""


def on_both_loops(test: Callable[[str, Store], Awaitable[None]]) -> Callable[[str, str], None]:
    """Run a test on uvloop, as the gateway does, and on asyncio's own loop: their transports pause differently."""

    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def run(store_url: str, loop: str) -> None:
        async def main() -> None:
            store = connect(store_url).store
            try:
                await test(store_url, store)
            finally:
                await store.aclose()

        factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    run.__doc__ = test.__doc__
    return run


class Clock:
    """Stands in for the module `time`: both clocks go on only where the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._started_at = time.time() - self.now

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self._started_at + self.now

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def state(number: int) -> bytes:
    return b'{"n":%d,"pad":"%b"}' % (number, os.urandom(STATE_BYTES // 2).hex().encode())


async def publish(store: Store, topics: tuple[str, ...], count: int = VERSIONS) -> dict[str, int]:
    """Publish many versions of each topic; return the newest of each."""
    newest: dict[str, int] = {}
    for number in range(count):
        for topic, done in zip(
            topics, await store.commit_many([Change(t, state(number)) for t in topics]), strict=True
        ):
            assert isinstance(done, Committed)
            newest[topic] = done.version
    return newest


@on_both_loops
async def test_a_tab_that_stops_reading_holds_a_slot_per_topic_and_goes_on_with_the_newest(
    store_url: str, store: Store
) -> None:
    async with run_gateway(environment(store_url, SEND_TIMEOUT_S="60")) as running:
        hub, metrics = running.node.hub, running.node.metrics
        async with open_slow_socket(running, *TOPICS) as slow:
            (sock,) = running.node.registry.sockets
            newest = await publish(store, TOPICS)
            await until(lambda: all(live.version == newest[live.name] for live in hub.topics.values()))
            assert sock.pending is not None
            assert len(sock.pending) == len(TOPICS)
            # One frame that the kernel did not take, and no more: the rest was never made.
            assert sock.buffered_bytes() < 2 * STATE_BYTES
            assert metrics.replaced > VERSIONS
            assert metrics.sent < VERSIONS
            await slow.read_until(newest)
            assert slow.states < VERSIONS
            await until(lambda: sock.pending is None)
            again = await publish(store, TOPICS, 1)
            await slow.read_until(again)


@on_both_loops
async def test_nobody_waits_for_a_tab_that_does_not_read(store_url: str, store: Store) -> None:
    topic = TOPICS[0]
    async with (
        run_gateway(environment(store_url, SEND_TIMEOUT_S="60")) as running,
        open_slow_socket(running, topic) as slow,
        open_client(running, topic) as quick,
    ):
        await quick.until("snapshot")
        newest = await publish(store, (topic,))
        while (await quick.until("snapshot"))["version"] < newest[topic]:
            pass
        lags = []
        for number in range(20):
            started = time.monotonic()
            (done,) = await store.commit_many([Change(topic, state(number))])
            assert isinstance(done, Committed)
            last = done.version
            assert (await quick.until("snapshot"))["version"] == last
            lags.append(time.monotonic() - started)
        assert sorted(lags)[10] < 0.5, "the send timeout, for which others would wait, is a minute"
        blocked = [sock for sock in running.node.registry.sockets if sock.pending is not None]
        assert len(blocked) == 1
        await slow.read_until({topic: last})


@on_both_loops
async def test_a_tab_that_makes_no_progress_is_cut_off_with_4008(store_url: str, store: Store) -> None:
    topic = TOPICS[0]
    async with run_gateway(environment(store_url, SEND_TIMEOUT_S="0.5")) as running, open_slow_socket(running, topic):
        await publish(store, (topic,))
        await until(lambda: running.node.metrics.closed[4008] == 1)
        await until(lambda: not running.node.registry.sockets)
        assert running.node.hub.subscription_count == 0


@on_both_loops
async def test_a_slow_tab_that_makes_progress_is_kept(store_url: str, store: Store) -> None:
    """The gateway's clock is the test's: three and a half seconds, however long the machine takes for them."""
    topic, clock = TOPICS[0], Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.ws.registry.time", clock)
        async with (
            run_gateway(environment(store_url, SEND_TIMEOUT_S="1.5")) as running,
            open_slow_socket(running, topic) as slow,
        ):
            newest: dict[str, int] = {}
            for _ in range(70):
                newest = await publish(store, (topic,), 4)
                assert await slow.read()
                clock.now += 0.05
                running.node.registry.tick(clock.now)
            assert running.node.metrics.replaced > 0
            assert running.node.metrics.closed == {}
            await slow.read_until(newest)


@on_both_loops
async def test_a_tab_that_writes_but_does_not_read_cannot_fill_the_gateways_memory(
    store_url: str, store: Store
) -> None:
    """Every frame it sends asks for the whole state again."""
    topic = TOPICS[0]
    async with (
        run_gateway(environment(store_url, FRAMES_PER_S="1000", SEND_TIMEOUT_S="60")) as running,
        open_slow_socket(running, topic) as slow,
    ):
        (sock,) = running.node.registry.sockets
        newest = await publish(store, (topic,))
        await until(lambda: sock.pending is not None)
        most = 0
        for number in range(200):
            await slow.send({"type": "subscribe", "topic": topic, "version": (0, 2**53 - 1)[number % 2]})
            most = max(most, sock.buffered_bytes())
            await asyncio.sleep(0.002)  # its pace: each is answered before the next
        await until(lambda: running.node.reconciler._wanted == {})
        assert max(most, sock.buffered_bytes()) < 4 * STATE_BYTES
        slow.versions.clear()
        await slow.read_until(newest)


@on_both_loops
async def test_news_of_freshness_reaches_a_tab_that_was_blocked_when_it_came(store_url: str, store: Store) -> None:
    topic = TOPICS[0]
    async with (
        run_gateway(environment(store_url, SEND_TIMEOUT_S="60")) as running,
        open_slow_socket(running, topic) as slow,
    ):
        (sock,) = running.node.registry.sockets
        newest = await publish(store, (topic,))
        await until(lambda: sock.pending is not None)
        running.node.hub.set_fresh_until(-math.inf)
        running.node.registry.announce_freshness()
        slow.types.clear()
        await slow.read_until(newest)
        assert "heartbeat" in slow.types
