"""Frames by the thousand: bounded in number, in what they have sent back, and in what they write to the log."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from gateway.ws import session
from sync.process import logs
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import Client, environment, open_client, run_gateway, token
from tests.support.wait import until

TOPIC = "tenant:acme"
FLOOD = 3000


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, as JSON lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logs._lines = None


def lines(log: io.StringIO, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == event]


async def flood(client: Client, type_: str, **fields: Any) -> None:
    with contextlib.suppress(ConnectionClosed):
        for number in range(FLOOD):
            await client.send(
                type_, **{name: value(number) if callable(value) else value for name, value in fields.items()}
            )
            if number % 50 == 0:
                await asyncio.sleep(0)


async def read_all(client: Client) -> list[dict[str, Any]]:
    """Return what comes until the socket is closed."""
    frames = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            frames.append(await client.receive())
    return frames


FLOODS: dict[str, dict[str, Any]] = {
    "nack": {"topic": TOPIC, "version": 1, "reason": "x" * 100},
    "ack": {"topic": TOPIC, "version": 1},
    "subscribe": {"topic": lambda number: f"tenant:t{number}"},
    "unsubscribe": {"topic": TOPIC},
    "expect": {"topic": TOPIC, "after": lambda number: number},
    "token": {"token": token()},
}


@pytest.mark.parametrize("type_", FLOODS)
async def test_a_flood_of_frames_of_any_kind_is_cut_off_at_the_rate(store_url: str, store: Store, type_: str) -> None:
    await store.commit(Change(TOPIC, b'{"n":1}'))
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await client.until("snapshot")
        reading = asyncio.create_task(read_all(client))
        flooding = asyncio.create_task(flood(client, type_, **FLOODS[type_]))
        code, reason = await client.closed()
        await reading
        assert code == 4529
        assert reason is not None
        assert reason.startswith("too_many_")
        assert running.node.metrics.received < 500
        await flooding


async def test_nacks_of_many_sockets_write_few_lines(store_url: str, store: Store, log: io.StringIO) -> None:
    committed = await store.commit(Change(TOPIC, b'{"n":1}'))
    async with run_gateway(environment(store_url)) as running:
        async with contextlib.AsyncExitStack() as stack:
            tabs = [await stack.enter_async_context(open_client(running, TOPIC)) for _ in range(10)]
            for tab in tabs:
                await tab.until("snapshot")
                for number in range(50):
                    await tab.send("nack", topic=TOPIC, version=committed.version, reason=f"no {number}")
            await until(lambda: running.node.metrics.nacks == 500)
        written = lines(log, "nack")
        assert 0 < len(written) <= logs.LIMITED_BURST + 2
        assert written[0]["reason"] == "no 0"


# Asking for the same state again and again.


@pytest.mark.parametrize("leaves", [False, True], ids=["again", "after leaving it"])
async def test_a_state_is_not_sent_without_end_to_who_asks_again(store_url: str, store: Store, leaves: bool) -> None:
    state = b'{"pad":"%b"}' % (b"x" * 30_000)
    await store.commit(Change(TOPIC, state))
    limits = environment(store_url, FRAMES_PER_S="100000", TOPICS_PER_SOCKET="4")
    burst = 4 * 32_768
    async with run_gateway(limits) as running, open_client(running, TOPIC, max_size=None) as client:
        reading = asyncio.create_task(read_all(client))
        with contextlib.suppress(ConnectionClosed):
            for _ in range(FLOOD):
                if leaves:
                    await client.send("unsubscribe", topic=TOPIC)
                await client.send("subscribe", topic=TOPIC, version=0)
                await asyncio.sleep(0.001)
        assert await client.closed() == (4529, "too_many_states: subscribing asks for too many states")
        states = sum(one["type"] == "snapshot" for one in await reading)
        assert states <= 1 + burst // len(state) + 2
        assert running.node.metrics.sent_bytes < 2 * burst + session.STATES_BYTES_PER_S


async def test_a_page_may_subscribe_to_all_it_may_hold_at_once(store_url: str, store: Store) -> None:
    state = b'{"pad":"%b"}' % (b"x" * 32_700)
    topics = [f"tenant:t{number}" for number in range(64)]
    for topic in topics:
        await store.commit(Change(topic, state))
    async with run_gateway(environment(store_url)) as running, open_client(running, max_size=None) as client:
        await client.until("welcome")
        for topic in topics:
            await client.send("subscribe", topic=topic, version=0)
        assert {(await client.until("snapshot"))["topic"] for _ in topics} == set(topics)


# A refused socket.


async def test_a_socket_refused_by_a_limit_is_attached_to_nothing(store_url: str, store: Store) -> None:
    await store.commit(Change(TOPIC, b'{"n":1}'))
    async with run_gateway(environment(store_url, SOCKETS_PER_SUBJECT="1")) as running:
        async with open_client(running, "tenant:other") as first:
            await first.until("snapshot")
            opened = running.node.metrics.opened
            async with open_client(running, TOPIC) as second:
                assert await read_all(second) == []
                assert second.connection.close_code == 4529
            assert running.node.hub.topic(TOPIC) is None, "it was attached"
            assert running.node.hub.subscription_count == 1
            assert running.node.metrics.opened == opened
            await until(lambda: len(running.node.registry.sockets) == 1)
            assert running.node.registry.admission._per_subject == {"tester": 1}
        await until(lambda: not running.node.registry.sockets)
        assert not running.node.registry.admission._per_subject
        async with open_client(running, TOPIC) as third:
            await third.until("snapshot")
