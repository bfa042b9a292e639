"""Behind nginx and HAProxy, with the configurations that docs/deploy ships and TLS at the proxy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Origin, Subprotocol

from gateway.console.auth import LOGIN_TRIES
from gateway.metrics import OTHER
from sync.billing.catalog.watcher import EXAMPLE
from sync.store.models import Change
from sync.store.store import Store
from tests.support.bodies import SECRET, signature, webhook
from tests.support.certificates import Certificates, make_certificates
from tests.support.console import TOKEN
from tests.support.gateway import Running, environment, run_gateway, token
from tests.support.proxies import NO_FORWARDING_HEADERS, run_proxy
from tests.support.wait import until
from tests.support.wire import dial, hello

pytestmark = pytest.mark.slow

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
    async def run(idle_s: float = 60, *, prefix: str = "", **settings: str) -> AsyncIterator[tuple[Running, int]]:
        settings = {"TRUSTED_PROXIES": "127.0.0.1", **settings}
        async with (
            run_gateway(environment(store_url, **settings)) as running,
            run_proxy(proxy, running.port, made, idle_s, prefix=prefix) as port,
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
        await until(lambda: not running.node.registry.sockets)


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
            assert {socket.peer for socket in running.node.registry.sockets} == {"127.0.0.2", "127.0.0.3"}
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
        assert {socket.peer for socket in running.node.registry.sockets} == {"127.0.0.1"}


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
        await until(lambda: not running.node.registry.sockets)


async def test_a_request_head_with_the_longest_token_passes(stack: Stack, made: Certificates) -> None:
    async with stack() as (running, port), httpx2.AsyncClient(verify=made.trust(), timeout=5) as client:
        long = "x" * running.node.settings.token_max_bytes
        url = f"https://127.0.0.1:{port}/v1/state/tenant:acme"
        response = await client.get(url, headers={"Authorization": f"Bearer {long}"})
        assert response.status_code == 401  # by the gateway, not 400 or 431 by the proxy
        assert response.headers["content-type"] == "application/problem+json"


# The console, and a path of another site.


def page_of(port: int, made: Certificates, prefix: str = "", **options: Any) -> httpx2.AsyncClient:
    """Return a browser's way to what is served below `prefix`, as a page of ours."""
    origin = f"https://127.0.0.1:{port}"
    options |= {"headers": {"Origin": origin}, "timeout": 10, "trust_env": False}
    return httpx2.AsyncClient(base_url=origin + prefix, verify=made.trust(), **options)


@pytest.mark.parametrize("prefix", ["", "/planwire"])
async def test_the_console_works_behind_the_proxy_on_any_port_and_below_any_path(
    proxy: str, made: Certificates, store_url: str, prefix: str
) -> None:
    async with (
        run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN, TRUSTED_PROXIES="127.0.0.1")) as running,
        run_proxy(proxy, running.port, made, prefix=prefix) as port,
        page_of(port, made, prefix) as client,
    ):
        answer = await client.get("/console")
        assert answer.status_code == 307
        assert str(answer.url.join(answer.headers["location"])) == f"https://127.0.0.1:{port}{prefix}/console/"
        assert (await client.get("/console/")).headers["content-type"].startswith("text/html")
        assert (await client.get("/console/app.js")).status_code == 200
        assert (await client.get("/client/planwire.js")).status_code == 200
        answer = await client.post("/console/login", json={"token": TOKEN})
        assert answer.status_code == 204, answer.text
        assert "Secure" in answer.headers["set-cookie"]
        assert [cookie.path for cookie in client.cookies.jar] == [f"{prefix}/console"]
        mine = {"Planwire-Console": "1"}
        jwt = (await client.post("/console/api/token", json={}, headers=mine)).json()["token"]
        await client.post("/console/api/look", json={"topics": []}, headers=mine)
        url = f"wss://127.0.0.1:{port}{prefix}/v1/connect"
        options: dict[str, Any] = {"subprotocols": [Subprotocol("planwire.v1")], "ssl": made.trust()}
        async with connect(url, origin=Origin(f"https://127.0.0.1:{port}"), **options) as connection:
            topics = {f"gateway:{running.node.name}": 0}
            await connection.send(json.dumps({"type": "hello", "token": jwt, "topics": topics, "client": "x"}))
            await wanted(connection, type="snapshot", topic=f"gateway:{running.node.name}")
        stolen = dict(client.cookies)
        assert (await client.post("/console/logout")).status_code == 204
        assert not client.cookies
        async with page_of(port, made, prefix, cookies=stolen) as thief:
            assert (await thief.get("/console/api/session")).json()["code"] == "token_revoked"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, origin=Origin("https://evil.example"), **options):
                pass
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/v1/publish/", "/console/api/session/", "/healthz/", "/client", "/demo", "/no/"])
async def test_no_answer_leads_out_of_the_path_or_to_another_name(
    proxy: str, made: Certificates, store_url: str, path: str
) -> None:
    async with (
        run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running,
        run_proxy(proxy, running.port, made, prefix="/planwire") as port,
        page_of(port, made, "/planwire") as client,
    ):
        answer = await client.get(path, headers={"Host": f"evil.example:{port}"})
        assert answer.status_code in (401, 404, 405), answer.headers.get("location")
        assert "location" not in answer.headers


@pytest.mark.parametrize("prefix", ["", "/planwire"])
async def test_webhooks_of_a_megabyte_pass_unchanged_with_slashes_too_many(
    stack: Stack, made: Certificates, prefix: str
) -> None:
    settings = {"INTAKE": "1", "CATALOG": str(EXAMPLE), "PADDLE_SECRETS": f"live:{SECRET}"}
    body = webhook(items=[("pri_1", 1)])
    body += b" " * (2**20 - len(body))
    async with stack(prefix=prefix, **settings) as (_, port), httpx2.AsyncClient(verify=made.trust()) as client:

        async def post(path: str, body: bytes) -> tuple[int, str]:
            headers = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
            answer = await client.post(f"https://127.0.0.1:{port}{prefix}{path}", content=body, headers=headers)
            return answer.status_code, str(answer.json().get("outcome") or answer.json()["code"])

        assert await post("/webhooks/paddle", body) == (200, "parked")
        for path in ("/webhooks/paddle/", "//webhooks/paddle", "/webhooks//paddle//"):
            assert await post(path, body) == (200, "parked"), path
        assert await post("/webhooks/paddle/", body + b" ") == (413, "body_too_large")
        answer = await client.get(f"https://127.0.0.1:{port}{prefix}/webhooks/paddle/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_wrong_console_tokens_of_one_client_do_not_lock_out_another(
    proxy: str, made: Certificates, store_url: str
) -> None:
    async with (
        run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN, TRUSTED_PROXIES="127.0.0.1")) as running,
        run_proxy(proxy, running.port, made) as port,
    ):

        async def tried(address: str, token: str) -> int:
            transport = httpx2.AsyncHTTPTransport(verify=made.trust(), local_address=address)
            origin = f"https://127.0.0.1:{port}"
            async with httpx2.AsyncClient(transport=transport, headers={"Origin": origin}) as client:
                return (await client.post(f"{origin}/console/login", json={"token": token})).status_code

        for _ in range(LOGIN_TRIES):
            assert await tried("127.0.0.2", "wrong") == 401
        assert await tried("127.0.0.2", "wrong") == 429
        assert await tried("127.0.0.3", "wrong") == 401
        assert await tried("127.0.0.3", TOKEN) == await tried("127.0.0.2", TOKEN) == 204


async def test_a_tunnel_to_a_development_machine_opens_neither_demo_nor_console(
    proxy: str, made: Certificates, store_url: str
) -> None:
    async with (
        run_gateway(environment(store_url, DEV="1")) as running,
        run_proxy(proxy, running.port, made) as port,
        run_proxy(proxy, running.port, made, changes=NO_FORWARDING_HEADERS[proxy]) as silent,
    ):
        for path in ("/demo", "/demo/", "/console", "/console/", "/console/api/session"):
            async with page_of(port, made) as client:
                assert (await client.get(path)).status_code == 404, path
            # Without a word of it the request is one of this machine, as long as the name in it is, too.
            async with page_of(silent, made) as client:
                assert (await client.get(path)).status_code in (200, 307), path
                assert (await client.get(path, headers={"Host": "dev.example"})).status_code == 404, path


async def test_haproxys_default_check_finds_the_gateway_up(made: Certificates, store_url: str) -> None:
    """`option httpchk` without a path asks OPTIONS / in HTTP/1.0, without a Host."""
    async with run_gateway(environment(store_url)) as running:
        async with dial(running.port) as wire:
            await wire.send(b"OPTIONS / HTTP/1.0\r\n\r\n")
            answer = await wire.answer()
            assert (answer.status, answer.headers["allow"]) == (204, "OPTIONS")
        changes = {"option httpchk GET /readyz": "option httpchk"}
        async with run_proxy("haproxy", running.port, made, changes=changes):
            pass  # it serves only once its checks have passed


@pytest.mark.parametrize("prefix", ["", "/planwire"])
async def test_metrics_are_closed_at_the_proxy_and_open_to_a_scrape_of_the_gateway(
    stack: Stack, made: Certificates, prefix: str
) -> None:
    secret = "s" * 32
    for settings in ({}, {"METRICS_TOKEN": secret}):
        bearer = {"Authorization": f"Bearer {secret}"}
        async with (
            stack(prefix=prefix, **settings) as (running, port),
            httpx2.AsyncClient(verify=made.trust(), timeout=5) as client,
        ):
            for path in ("/metrics", "/metrics/", "/metrics?x=1", "/%6detrics", "//metrics", "/x/../metrics"):
                answer = await client.get(f"https://127.0.0.1:{port}{prefix}{path}", headers=bearer)
                assert answer.status_code == 404, path
                assert "planwire_" not in answer.text
            answer = await client.get(f"{running.url}/metrics", headers=bearer)
            assert answer.status_code == 200
            assert "planwire_sockets " in answer.text
