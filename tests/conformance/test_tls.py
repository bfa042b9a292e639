"""TLS in the gateway's own server: uvicorn's options on the same configuration, certificates of the test's own CA."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway.app import create_app
from gateway.server.main import configuration
from gateway.server.server import Server
from gateway.settings import GatewaySettings
from sync.store.models import Change
from sync.store.store import Store
from tests.support.certificates import Certificates, make_certificates
from tests.support.gateway import Running, environment, token
from tests.support.wait import until
from tests.support.wire import dial, hello


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@asynccontextmanager
async def run_tls(store_url: str, made: Certificates, **settings: str) -> AsyncIterator[Running]:
    environ = environment(store_url, **settings)
    config = configuration(GatewaySettings.from_env(environ), factory=lambda: create_app(environ))
    config.ssl_certfile, config.ssl_keyfile = str(made.certificate), str(made.key)
    server = Server(config)
    task = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started or task.done())
        node = server.lifespan.state["node"]
        await until(lambda: node.hub.fresh)
        yield Running(node, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        server.should_exit = True
        await task


def tab(running: Running, made: Certificates, **options: Any) -> connect:
    url = f"wss://127.0.0.1:{running.port}/v1/connect"
    return connect(url, ssl=made.trust(), subprotocols=[Subprotocol("planwire.v1")], **options)


async def wanted(connection: ClientConnection, **fields: Any) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            frame: dict[str, Any] = json.loads(await connection.recv())
            if all(frame.get(name) == value for name, value in fields.items()):
                return frame


async def test_a_change_reaches_a_tab_over_tls(store_url: str, store: Store, made: Certificates) -> None:
    async with run_tls(store_url, made) as running, tab(running, made) as connection:
        await connection.send(hello("tenant:acme").decode())
        await wanted(connection, type="snapshot", version=0)
        committed = await store.commit(Change("tenant:acme", b'{"text":"%b"}' % (b"x" * 20_000)))
        assert len((await wanted(connection, version=committed.version))["state"]["text"]) == 20_000
        await asyncio.wait_for(await connection.ping(b"alive"), 5)
        await connection.close(1000)
        assert connection.close_code == 1000
        await until(lambda: running.node.metrics.closed[1000] == 1)


async def test_http_and_event_streams_are_served_over_tls(store_url: str, store: Store, made: Certificates) -> None:
    committed = await store.commit(Change("tenant:acme", b'{"n":1}'))
    async with run_tls(store_url, made) as running, httpx2.AsyncClient(verify=made.trust(), timeout=5) as client:
        url = f"https://localhost:{running.port}/v1/state/tenant:acme"
        headers = {"Authorization": f"Bearer {token()}"}
        assert (await client.get(url, headers=headers)).json()["version"] == committed.version
        async with client.stream("GET", f"{url}/events", headers=headers) as response:
            assert response.headers["x-accel-buffering"] == "no"
            async for line in response.aiter_lines():
                if f'"version":{committed.version}' in line:
                    break


@pytest.mark.parametrize(
    ("message", "code"),
    [(" " * 70_000, 4513), (" " * 3_000_000, 4513), (b"binary", 4500), (hello()[:-1].decode(), 4500)],
)
async def test_a_violation_over_tls_learns_why(
    store_url: str, made: Certificates, message: str | bytes, code: int
) -> None:
    async with run_tls(store_url, made) as running:
        async with tab(running, made, compression=None) as connection:
            await connection.send(message)
            await asyncio.wait_for(connection.wait_closed(), 5)
            assert connection.close_code == code
        await until(lambda: not running.node.registry.sockets)


async def test_a_tab_that_stops_reading_over_tls_holds_slots_not_bytes(
    store_url: str, store: Store, made: Certificates
) -> None:
    async with run_tls(store_url, made, SEND_TIMEOUT_S="1") as running:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", running.port))
        async with tab(running, made, sock=raw, compression=None, ping_interval=None) as connection:
            await connection.send(hello("tenant:acme").decode())
            await wanted(connection, type="snapshot")
            connection.transport.pause_reading()
            (held,) = running.node.registry.sockets
            most = 0
            for number in range(200):
                if not running.node.registry.sockets:
                    break
                await store.commit(Change("tenant:acme", b'{"n":%d,"text":"%b"}' % (number, b"x" * 20_000)))
                most = max(most, held.buffered_bytes())
            assert most < 200_000, "4 MB were published"
            await until(lambda: not running.node.registry.sockets)
            assert running.node.metrics.closed[4008] == 1
            connection.transport.abort()


async def test_who_does_not_speak_tls_or_does_not_trust_gets_nowhere(store_url: str, made: Certificates) -> None:
    async with run_tls(store_url, made) as running:
        async with dial(running.port) as wire:
            await wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in await wire.rest()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", running.port, ssl=ssl.create_default_context())
        await until(lambda: not running.server.server_state.connections)
