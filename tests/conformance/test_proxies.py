"""Behind nginx and HAProxy, with the configurations that docs/deploy ships and TLS at the proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from gateway.metrics import OTHER
from sync.state.store import Change, Store
from tests.support.certificates import Certificates, make_certificates
from tests.support.gateway import Running, environment, run_gateway, token
from tests.support.proxies import run_proxy
from tests.support.wait import until
from tests.support.wire import hello

IDLE_S = 4.0
"""The proxies' timeout where it is looked at: four heartbeats, as in what is shipped. Elsewhere it is those 60 s."""

HEARTBEAT_S = "1"


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


Stack = Callable[..., AbstractAsyncContextManager[tuple[Running, int]]]


@pytest.fixture
def stack(proxy: str, made: Certificates, store_url: str) -> Stack:
    @asynccontextmanager
    async def run(idle_s: float = 60, **settings: str) -> AsyncIterator[tuple[Running, int]]:
        settings = {"TRUSTED_PROXIES": "127.0.0.1", **settings}
        async with (
            run_gateway(environment(store_url, **settings)) as running,
            run_proxy(proxy, running.port, made, idle_s) as port,
        ):
            yield running, port

    return run


@asynccontextmanager
async def tab(port: int, made: Certificates, *topics: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"wss://127.0.0.1:{port}/v1/connect", ssl=made.trust(), subprotocols=[Subprotocol("planwire.v1")], **options
    ) as connection:
        await connection.send(hello(*topics).decode())
        yield connection


async def wanted(connection: ClientConnection, **fields: Any) -> dict[str, Any]:
    """Return the next frame with these fields."""
    async with asyncio.timeout(4 * IDLE_S):
        while True:
            frame: dict[str, Any] = json.loads(await connection.recv())
            if all(frame.get(name) == value for name, value in fields.items()):
                return frame


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_change_reaches_a_tab_behind_the_proxy(
    stack: Stack, made: Certificates, store: Store, compression: str | None
) -> None:
    async with (
        stack() as (_, port),
        tab(port, made, "tenant:acme", compression=compression) as connection,
    ):
        assert bool(connection.protocol.extensions) is (compression is not None)
        await wanted(connection, type="snapshot", version=0)
        state = json.dumps({"plan": "pro", "text": "compressible " * 50}).encode()
        committed = await store.commit(Change("tenant:acme", state))
        frame = await wanted(connection, type="snapshot", version=committed.version)
        assert frame["state"]["plan"] == "pro"


async def test_heartbeats_keep_an_idle_tab_beyond_the_proxys_timeout(
    stack: Stack, made: Certificates, store: Store
) -> None:
    async with (
        stack(IDLE_S, HEARTBEAT_S=HEARTBEAT_S) as (_, port),
        tab(port, made, "tenant:acme", ping_interval=None) as connection,
    ):
        loop = asyncio.get_running_loop()
        until_at = loop.time() + 1.5 * IDLE_S
        while loop.time() < until_at:
            await wanted(connection, type="heartbeat")
        committed = await store.commit(Change("tenant:acme", b'{"plan":"pro"}'))
        await wanted(connection, type="snapshot", version=committed.version)


async def test_without_heartbeats_the_proxy_cuts_the_tab(stack: Stack, made: Certificates) -> None:
    """What the test before this one is worth."""
    async with stack(IDLE_S) as (running, port):
        async with tab(port, made, ping_interval=None) as connection:
            with pytest.raises(ConnectionClosedError):
                await wanted(connection, type="never")
            assert connection.close_code == 1006
        await until(lambda: not running.node.pulse.sockets)


async def test_events_are_not_held_back(stack: Stack, made: Certificates, store: Store) -> None:
    async with (
        stack(IDLE_S, HEARTBEAT_S=HEARTBEAT_S) as (_, port),
        httpx2.AsyncClient(verify=made.trust(), timeout=4 * IDLE_S) as client,
    ):
        url = f"https://127.0.0.1:{port}/v1/state/tenant:acme/events"
        async with client.stream("GET", url, headers={"Authorization": f"Bearer {token()}"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()

            async def event(text: str) -> None:
                async with asyncio.timeout(4 * IDLE_S):
                    async for line in lines:
                        if text in line:
                            return

            await event('"version":0')
            for _ in range(3):
                committed = await store.commit(Change("tenant:acme", b'{"n":%d}' % _))
                await event(f'"version":{committed.version}')
            # And it outlives the proxy's timeout.
            loop = asyncio.get_running_loop()
            until_at = loop.time() + 1.5 * IDLE_S
            while loop.time() < until_at:
                await event("heartbeat")


async def test_the_clients_address_is_believed_from_the_proxy_and_from_nobody_else(
    stack: Stack, made: Certificates
) -> None:
    async with stack(SOCKETS_PER_ADDRESS="1") as (running, port):

        def from_(address: str, claimed: str = "203.0.113.9") -> AbstractAsyncContextManager[ClientConnection]:
            headers = {"X-Forwarded-For": claimed}
            return tab(port, made, local_addr=(address, 0), additional_headers=headers)

        async with from_("127.0.0.2") as first, from_("127.0.0.3") as second:
            await wanted(first, type="welcome")
            await wanted(second, type="welcome")
            assert {socket.peer for socket in running.node.pulse.sockets} == {"127.0.0.2", "127.0.0.3"}
            with pytest.raises(InvalidStatus) as refused:
                async with from_("127.0.0.2", "198.51.100.7"):
                    pass
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["retry-after"]


async def test_without_trust_the_address_is_the_proxys(stack: Stack, made: Certificates) -> None:
    async with (
        stack(TRUSTED_PROXIES="") as (running, port),
        tab(port, made, local_addr=("127.0.0.2", 0)) as connection,
    ):
        await wanted(connection, type="welcome")
        assert {socket.peer for socket in running.node.pulse.sockets} == {"127.0.0.1"}


async def test_close_codes_pass_the_proxy(stack: Stack, made: Certificates) -> None:
    async with stack() as (running, port):
        async with tab(port, made) as connection:
            await connection.send(b"binary")
            await connection.wait_closed()
            assert connection.close_code == 4500
        async with tab(port, made) as connection:
            await connection.send(" " * 70_000)
            await connection.wait_closed()
            assert connection.close_code == 4513
        async with tab(port, made) as connection:
            await wanted(connection, type="welcome")
            await connection.close(3333, "going")
        await until(lambda: running.node.metrics.closed[OTHER] == 1)


async def test_a_tab_that_vanishes_is_noticed_behind_the_proxy(stack: Stack, made: Certificates) -> None:
    async with stack() as (running, port):
        async with tab(port, made) as connection:
            await wanted(connection, type="welcome")
            connection.transport.abort()
        await until(lambda: not running.node.pulse.sockets)


async def test_a_request_head_with_the_longest_token_passes(stack: Stack, made: Certificates) -> None:
    async with stack() as (running, port), httpx2.AsyncClient(verify=made.trust(), timeout=5) as client:
        long = "x" * running.node.settings.token_max_bytes
        url = f"https://127.0.0.1:{port}/v1/state/tenant:acme"
        response = await client.get(url, headers={"Authorization": f"Bearer {long}"})
        assert response.status_code == 401  # by the gateway, not 400 or 431 by the proxy
        assert response.headers["content-type"] == "application/problem+json"


async def test_metrics_are_closed_at_the_proxy_and_open_to_a_scrape_of_the_gateway(
    stack: Stack, made: Certificates
) -> None:
    secret = "s" * 32
    for settings in ({}, {"METRICS_TOKEN": secret}):
        bearer = {"Authorization": f"Bearer {secret}"}
        async with stack(**settings) as (running, port), httpx2.AsyncClient(verify=made.trust(), timeout=5) as client:
            for path in ("/metrics", "/metrics/", "/metrics?x=1", "/%6detrics", "//metrics", "/x/../metrics"):
                answer = await client.get(f"https://127.0.0.1:{port}{path}", headers=bearer)
                assert answer.status_code == 404, path
                assert "planwire_" not in answer.text
            answer = await client.get(f"{running.url}/metrics", headers=bearer)
            assert answer.status_code == 200
            assert "planwire_sockets " in answer.text
