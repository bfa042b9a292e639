"""A process that stops lets its sockets go gently: bye, closes spread over the window, nobody new."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from gateway.ws import registry
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import Client, environment, open_client, run_gateway
from tests.support.wait import until

TOPIC = "tenant:acme"
SOCKETS = 10
APART_S = (3 - 0.3) / SOCKETS
"""How far apart the closes of a drain of 3 s are, the last of which comes back within 0.3 s."""


async def remaining(client: Client) -> AsyncIterator[dict[str, Any]]:
    """Yield frames until the socket is closed."""
    with contextlib.suppress(ConnectionClosed):
        async for text in client.connection:
            yield json.loads(text)


async def leave(client: Client, events: list[tuple[float, dict[str, Any]]]) -> int | None:
    """Collect frames until the socket is closed; return the code."""
    events.extend([(time.monotonic(), frame) async for frame in remaining(client)])
    return client.connection.close_code


async def stand_still(moments_s: list[float]) -> None:
    """Note for how long nothing here went on, which is the machine's doing and not the drain's."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        moments_s.append(time.monotonic() - began - 0.01)


async def test_every_socket_is_told_bye_and_closed_4000_evenly_over_the_window(store_url: str, store: Store) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(run_gateway(environment(store_url, DRAIN_S="3")))
        clients = [await stack.enter_async_context(open_client(running, TOPIC)) for _ in range(SOCKETS)]
        for client in clients:
            assert (await client.until("snapshot"))["version"] == 0
        events: list[list[tuple[float, dict[str, Any]]]] = [[] for _ in clients]
        leaving = [asyncio.create_task(leave(client, heard)) for client, heard in zip(clients, events, strict=True)]
        still_s: list[float] = []
        stack.callback(asyncio.create_task(stand_still(still_s)).cancel)
        started = time.monotonic()
        running.server.should_exit = True
        await until(lambda: running.node.metrics.draining)
        # Those that are still there are served as ever.
        asked = time.monotonic()
        await store.commit(Change(TOPIC, b'{"last":"one"}'))
        still_s.append(time.monotonic() - asked)
        codes = await asyncio.gather(*leaving)
    assert codes == [4000] * SOCKETS
    byes = sorted(heard[-1][0] for heard in events)
    assert all(heard[-1][1] == {"type": "bye", "reconnect_ms": 300} for heard in events)
    for index, at in enumerate(byes):
        assert at - started > 0.9 * APART_S * index, "nobody before it is due"
    gaps = [later - earlier for earlier, later in itertools.pairwise([started, *byes])]
    assert max(gaps) < 1.2 + sum(still_s), f"they are {APART_S} s apart"
    served = sum(any(frame["type"] == "snapshot" for _, frame in heard) for heard in events)
    assert served >= SOCKETS / 2 - sum(still_s) / APART_S
    assert running.node.metrics.drained == SOCKETS


async def test_nobody_new_is_admitted_while_it_drains(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even over a connection that was open before; to connect anew is refused by the system."""
    async with (
        run_gateway(environment(store_url, DRAIN_S="1.5")) as running,
        open_client(running, TOPIC) as first,
        open_client(running, TOPIC) as second,
        AsyncExitStack() as stack,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        while (await reader.readline()) != b"\r\n":
            pass
        await reader.readexactly(len(b'{"status":"alive"}'))
        drain, looked = running.node.registry.drain, asyncio.Event()

        async def drain_until_looked(over_s: float) -> None:
            await drain(over_s)
            await looked.wait()

        monkeypatch.setattr(running.node.registry, "drain", drain_until_looked)
        stack.callback(looked.set)
        running.server.should_exit = True
        await until(lambda: running.node.metrics.draining)
        writer.write(
            b"GET /v1/connect HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: planwire.v1\r\n\r\n"
        )
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: " in answer
        assert b"application/problem+json" in answer
        writer.close()
        assert not running.server.servers[0].is_serving()
        looked.set()
        for client in (first, second):
            assert (await client.closed())[0] == 4000


async def test_a_drain_of_no_time_closes_all_at_once(store_url: str) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(run_gateway(environment(store_url, DRAIN_S="0")))
        clients = [await stack.enter_async_context(open_client(running, TOPIC)) for _ in range(3)]
        for client in clients:
            await client.until("snapshot")
        running.server.should_exit = True
        started = time.monotonic()
        for client in clients:
            assert (await client.closed())[0] == 4000
        assert time.monotonic() - started < 5


async def test_a_peer_that_does_not_answer_the_close_holds_nothing_up_for_long(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "CLOSE_TIMEOUT_S", 0.2)  # long before the server itself has done with it
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(run_gateway(environment(store_url, DRAIN_S="0")))
        client = await stack.enter_async_context(open_client(running, TOPIC))
        await client.until("snapshot")
        client.connection.protocol.receive_data = lambda data: None  # type: ignore[method-assign]
        running.server.should_exit = True
        await until(lambda: not running.node.registry.sockets)
        client.connection.transport.abort()


async def test_tabs_that_move_over_miss_no_version(store_url: str, store: Store) -> None:
    """A gateway of two drains; its tabs resume on the other with the version they hold."""
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(run_gateway(environment(store_url)))
        running = await stack.enter_async_context(run_gateway(environment(store_url, DRAIN_S="1")))
        # Of a topic without a state even one who holds nothing is told, and may be told twice.
        await store.commit(Change(TOPIC, b'{"the":"first"}'))
        clients = [await stack.enter_async_context(open_client(running, TOPIC)) for _ in range(SOCKETS)]
        held = [(await client.until("snapshot"))["version"] for client in clients]

        async def move(number: int) -> int:
            async for frame in remaining(clients[number]):
                if "version" in frame:
                    assert frame["version"] > held[number]
                    held[number] = frame["version"]
            async with open_client(other, TOPIC, held=held[number]) as client:
                state = None
                while state != {"the": "last"}:
                    frame = await client.receive()
                    state = frame.get("state")
                    if frame["type"] in ("snapshot", "patch"):
                        assert frame["version"] > held[number]
                        held[number] = frame["version"]
            return int(held[number])

        async with asyncio.TaskGroup() as group:  # it ends this too when one of them fails
            moving = [group.create_task(move(number)) for number in range(SOCKETS)]
            running.server.should_exit = True
            published = 0
            while (
                published <= SOCKETS
                or len(live.subscriptions if (live := other.node.hub.topic(TOPIC)) else ()) < SOCKETS
            ):
                await store.commit(Change(TOPIC, b'{"n":%d}' % published))
                published += 1
            last = await store.commit(Change(TOPIC, b'{"the":"last"}'))
        assert [task.result() for task in moving] == [last.version] * SOCKETS
        assert other.node.metrics.resets == 0
