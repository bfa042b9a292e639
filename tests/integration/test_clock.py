"""A wall clock that is set: deadlines are kept by the monotonic clock, and a token ends by the wall's new time."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from gateway.ws import frames
from tests.support.gateway import Client, environment, open_client, run_gateway, token
from tests.support.wait import until

TOPIC = "tenant:acme"
HOUR_S = 3600.0
SOON_S = 10.0
"""How soon what is due in parts of a second must have come; and far from an hour."""


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The gateway's wall clock: `set(seconds)` puts it forward, or back."""
    real = time.time

    def set_by(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return SimpleNamespace(set=set_by)


async def closed(client: Client) -> tuple[int | None, str | None]:
    return await client.closed(SOON_S)


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S], ids=["back", "forward"])
async def test_a_hello_has_its_time_and_no_more(store_url: str, wall: SimpleNamespace, step_s: float) -> None:
    limits = environment(store_url, HELLO_TIMEOUT_S="0.5")
    async with run_gateway(limits) as running, open_client(running, hello=False) as before:
        wall.set(step_s)
        async with open_client(running, hello=False) as after:
            started = time.monotonic()
            assert await closed(before) == (4501, "no hello in time")
            assert await closed(after) == (4501, "no hello in time")
            assert time.monotonic() - started > 0.3
            await until(lambda: not running.node.registry.sockets)


async def test_an_expect_expires_though_the_clock_was_set_back(store_url: str, wall: SimpleNamespace) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await client.until("snapshot")
        await client.send("expect", topic=TOPIC, after=0, timeout_ms=500)
        await client.until("pending")
        wall.set(-HOUR_S)
        assert (await client.until("expired", SOON_S))["topic"] == TOPIC
        await client.send("expect", topic=TOPIC, after=0, timeout_ms=500)
        await client.until("pending")
        await client.until("expired", SOON_S)


async def test_a_close_that_nobody_answers_ends_though_the_clock_was_set_back(
    store_url: str, wall: SimpleNamespace
) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        await client.until("snapshot")
        client.connection.transport.pause_reading()
        (socket,) = running.node.registry.sockets
        wall.set(-HOUR_S)
        socket.close(4000, "going away")
        await until(lambda: not running.node.registry.sockets, SOON_S)
        client.connection.transport.abort()


async def test_a_token_ends_when_its_time_has_come_by_the_new_clock(store_url: str, wall: SimpleNamespace) -> None:
    async with run_gateway(environment(store_url)) as running:
        async with open_client(running, TOPIC, jwt=token(ttl_s=600)) as client:
            await client.until("snapshot")
            wall.set(HOUR_S)
            assert await closed(client) == (4401, "token_expired")
        wall.set(0)


async def test_a_token_does_not_end_early_by_a_clock_set_back(store_url: str, wall: SimpleNamespace) -> None:
    jwt = token(ttl_s=2)
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC, jwt=jwt) as client:
        await client.until("snapshot")
        wall.set(-HOUR_S)
        await asyncio.sleep(2.5)  # its end by the clock that was
        await client.send("expect", topic=TOPIC, after=0, timeout_ms=100)
        await client.until("pending")
        wall.set(0)
        assert await closed(client) == (4401, "token_expired")


async def test_a_stall_is_cut_off_though_the_clock_was_set_back(store_url: str, wall: SimpleNamespace) -> None:
    limits = environment(store_url, SEND_TIMEOUT_S="0.5")
    async with run_gateway(limits) as running, open_client(running, TOPIC) as client:
        await client.until("snapshot")
        client.connection.transport.pause_reading()
        (socket,) = running.node.registry.sockets
        wall.set(-HOUR_S)
        while not running.node.metrics.closed[4008]:
            if socket.pending is None:
                socket.write(frames.text(b"x" * 65_000, False))
            await asyncio.sleep(0.001)
        client.connection.transport.abort()
