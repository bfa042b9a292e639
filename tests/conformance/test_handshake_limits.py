"""The door: what a client may send, and for how long, before it is understood."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.server import connections, main, protocols
from gateway.settings import GatewaySettings
from gateway.ws import connection, expects, heartbeats, registry, session
from tests.support.gateway import PUBLISH_KEY, SECRET, Running, environment, run_gateway, token
from tests.support.servers import start_valkey
from tests.support.wait import until
from tests.support.wire import HANDSHAKE, KEY, TEXT, dial, encode, head, hello

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /healthz HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
UPGRADE = b"".join(
    b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in HANDSHAKE.items() if name != "Host"
)
SOON_S = 0.3
WELL_BEFORE_KEEP_ALIVE_S = 12.0
"""The keep-alive timeout is far longer: what ends before this was ended by the head's clock."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Running]:
    """One gateway for the module."""
    with start_valkey() as store:
        async with run_gateway(environment(store.url)) as running:
            yield running


def padded(size: int, path: str = "/healthz") -> bytes:
    """Return a request head of exactly `size` bytes."""
    start = f"GET {path} HTTP/1.1\r\nHost: gateway.test\r\nX-Padding: ".encode()
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


async def test_the_limits_are_the_documented_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "proxies.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    settings = GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": SECRET})
    for name, value in {
        "HEAD_MAX_BYTES": protocols.HEAD_MAX_BYTES,
        "HEAD_TIMEOUT_S": connections.HEAD_TIMEOUT_S,
        "BACKLOG": main.BACKLOG,
        "FRAGMENTS_MAX": connection.FRAGMENTS_MAX,
        "SLICE_BYTES": connection.SLICE_BYTES,
        "CLOSE_TIMEOUT_S": registry.CLOSE_TIMEOUT_S,
        "UNANSWERED_MAX": heartbeats.UNANSWERED_MAX,
        "EXPECTS_PER_SOCKET": expects.EXPECTS_PER_SOCKET,
        "PLANWIRE_TOPICS_PER_SOCKET": settings.topics_per_socket,
        "PLANWIRE_FRAME_MAX_BYTES": settings.frame_max_bytes,
        "PLANWIRE_FRAMES_PER_S": settings.frames_per_s,
        "PLANWIRE_HELLO_TIMEOUT_S": settings.hello_timeout_s,
        "PLANWIRE_SEND_TIMEOUT_S": settings.send_timeout_s,
        "PLANWIRE_SOCKETS_PER_ADDRESS": settings.sockets_per_address,
        "PLANWIRE_SOCKETS_PER_SUBJECT": settings.sockets_per_subject,
        "PLANWIRE_SOCKETS_MAX": settings.sockets_max,
        "PLANWIRE_BODY_TIMEOUT_S": settings.body_timeout_s,
        "PLANWIRE_KEEP_ALIVE_S": settings.keep_alive_s,
        "PLANWIRE_CONNECTIONS_MAX": settings.connections_max,
        "PLANWIRE_CONNECTIONS_PER_ADDRESS": settings.connections_per_address,
        "STATES_BYTES_PER_S": session.STATES_BYTES_PER_S,
    }.items():
        (row,) = [row for row in rows if f"`{name}`" in row and row.count("|") == 4]
        assert re.search(rf"\b{value:,g}\b", row), f"{name} is {value}: {row}"


# Slow heads.

SLOW = {
    "nothing": [],
    "part of a request line": [b"GET /hea"],
    "an empty line": [b"\r\n"],
    "a head without an end": [b"GET / HTTP/1.1\r\nHost: x\r\n"],
    "a handshake without an end": [head()[:-2]],
    "a second head without an end": [GET, b"GET / HTTP/1.1\r\n"],
    "a second head in the packet of the first": [GET + b"GET / HTTP/1.1\r\n"],
    "an empty line after an answer": [GET, b"\r\n"],
}


def soon_once_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have heads time out soon, but for the first one until its first bytes are there: it is to be answered."""
    received = protocols.FirstBytesProtocol.first_bytes_received

    def heard(
        first_bytes: protocols.FirstBytesProtocol,
        socket: connection.WebSocket,
        transport: asyncio.Transport,
        data: bytes,
    ) -> None:
        monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", SOON_S)
        received(first_bytes, socket, transport, data)

    monkeypatch.setattr(protocols.FirstBytesProtocol, "first_bytes_received", heard)


@pytest.mark.parametrize("name", SLOW)
async def test_a_slow_head_is_dropped(running: Running, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = SLOW[name]
    if parts and parts[0].startswith(GET):
        soon_once_heard(monkeypatch)
    else:
        monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", SOON_S)
    started = time.monotonic()
    async with dial(running.port) as wire:
        for number, part in enumerate(parts):
            if number:
                started = time.monotonic()
            await wire.send(part)
            if part.startswith(GET):
                assert (await wire.answer()).status == 200
        assert await wire.rest(WELL_BEFORE_KEEP_ALIVE_S) == b""
        assert SOON_S * 0.5 < time.monotonic() - started < WELL_BEFORE_KEEP_ALIVE_S
    await until(lambda: not running.server.server_state.connections)


async def test_trickling_does_not_help(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", SOON_S)
    async with dial(running.port) as wire:
        started = time.monotonic()
        await wire.send(b"GET / HTTP/1.1\r\n")
        ended = asyncio.create_task(wire.rest(WELL_BEFORE_KEEP_ALIVE_S))
        while not ended.done():
            await wire.send(b"X-A: b\r\n")
            await asyncio.wait([ended], timeout=0.02)
        assert await ended == b""
        assert time.monotonic() - started < WELL_BEFORE_KEEP_ALIVE_S


@pytest.mark.parametrize("parts", [(b"", head()), (b"", GET), (GET[:9], GET[9:])], ids=["handshake", "request", "rest"])
async def test_what_came_while_the_process_stood_still_is_answered(
    running: Running, parts: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", SOON_S)
    loop = asyncio.get_running_loop()
    there = running.server.connections
    bell, rope = socket.socketpair()
    with bell, rope, socket.create_connection(("127.0.0.1", running.port)) as caller:
        await until(lambda: len(there) == 1)
        caller.sendall(parts[0])
        await until(
            lambda: any(isinstance(one, protocols.LimitedHttpProtocol) for one in there._entries) == bool(parts[0])
        )

        def stand_still() -> None:
            """The gateway shares this thread, and the loop's clocks are looked at next."""
            loop.remove_reader(bell)
            caller.sendall(parts[1])
            time.sleep(2 * SOON_S)

        loop.add_reader(bell, stand_still)
        rope.send(b"x")
        caller.setblocking(False)
        async with asyncio.timeout(WELL_BEFORE_KEEP_ALIVE_S):
            assert (await loop.sock_recv(caller, 65_536)).startswith(b"HTTP/1.1 ")


async def test_a_head_in_time_stops_the_clock(running: Running) -> None:
    """Neither an open socket, nor an event stream, nor a connection between two requests has a head to wait for."""
    stream = f"GET /v1/state/tenant:a/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
    async with dial(running.port) as kept, dial(running.port) as socket, dial(running.port) as events:
        await kept.send(GET)
        await kept.answer()
        await socket.send(head())
        assert (await socket.answer()).status == 101
        await events.send(stream.encode())
        assert (await events.answer()).status == 200
        async with dial(running.port) as slow:
            await slow.rest(WELL_BEFORE_KEEP_ALIVE_S)  # by now the clock would have run out for each of them
        await kept.send(GET)
        assert (await kept.answer()).status == 200
        await socket.send(encode(TEXT, hello()))
        assert (await socket.json())["type"] == "welcome"
        assert not events.reader.at_eof()


# Large heads.


@pytest.mark.parametrize("size", [protocols.HEAD_MAX_BYTES + 1, 20_000, 60_000])
@pytest.mark.parametrize("warm", [False, True], ids=["first request", "second request"])
async def test_a_head_above_the_limit_is_refused(running: Running, size: int, warm: bool) -> None:
    async with dial(running.port) as wire:
        if warm:
            await wire.send(GET)
            await wire.answer()
        await wire.send(padded(size))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert await wire.rest() == b""


async def test_a_head_just_below_the_limit_is_served(running: Running) -> None:
    async with dial(running.port) as wire:
        for _ in range(2):
            await wire.send(padded(protocols.HEAD_MAX_BYTES - 1))
            assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    "bomb",
    [
        b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 10_000,
        b"GET /" + b"a" * 100_000,
        b"\r\n" * 50_000,
        head()[:-2] + b"X-A: b\r\n" * 10_000,
        head()[:-2] + b"X-A: " + b"b" * 20_000 + b"\r\n\r\n",
    ],
    ids=["many headers", "a long path", "empty lines", "a handshake of many headers", "a handshake of one"],
)
async def test_a_bomb_is_refused_while_it_comes(running: Running, bomb: bytes) -> None:
    async with dial(running.port) as wire:
        for start in range(0, len(bomb), 1000):
            await wire.send(bomb[start : start + 1000])
            if wire.reader.at_eof():
                break
        rest = await wire.rest()
        # What was still under way when it was refused may reset the connection, and the answer with it.
        assert rest == b"" or rest.startswith(b"HTTP/1.1 431 ")
    await until(lambda: not running.server.server_state.connections)


async def test_a_body_is_no_head(running: Running) -> None:
    post = b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b" " * 60_000
    async with dial(running.port) as wire:
        await wire.send(post, GET, GET)
        assert [(await wire.answer()).status for _ in range(3)] == [401, 200, 200]


# Requests that are not plain ones.


async def test_pipelined_requests_are_answered_in_order(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(*[GET] * 400, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [(await wire.answer()).status for _ in range(401)] == [200] * 400 + [404]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        b"BREW /pot HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\nb\x00c\r\n\r\n",
    ],
    ids=["tls", "no method", "no version", "two lengths", "a zero byte"],
)
async def test_garbage_is_a_bad_request(running: Running, garbage: bytes) -> None:
    async with dial(running.port) as wire:
        await wire.send(garbage)
        assert (await wire.answer()).status == 400
        await wire.rest()


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"GET /healthz HTTP/1.1\r\n", "one Host header"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n", "one Host header"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nhost: b\r\n", "one Host header"),
        (b"GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n", "one Host header"),
        (b"GET /healthz HTTP/2.0\r\nHost: a\r\n", "HTTP/2.0"),
        (b"GET /healthz HTTP/0.9\r\nHost: a\r\n", "HTTP/0.9"),
        (b"GET /v1/connect HTTP/2.0\r\nHost: a\r\n" + UPGRADE, "HTTP/2.0"),
        (b"GET /v1/connect HTTP/1.1\r\nX-A: \xe9\r\n" + UPGRADE, "one Host header"),
        (b"GET /v1/connect HTTP/1.1\r\nX-A: \xe9\r\nHost: a\r\nHost: a\r\n" + UPGRADE, "one Host header"),
    ],
)
async def test_a_request_of_another_version_or_without_one_host_is_refused(
    running: Running, head: bytes, detail: str
) -> None:
    """RFC 9112 section 3.2: whom such a request is for, a proxy and this server may see differently."""
    async with dial(running.port) as wire:
        await wire.send(head + b"\r\n", GET)
        answer = await wire.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "bad_request", "close")
        assert detail in json.loads(answer.body)["detail"]
        assert await wire.rest() == b""


async def test_http_1_0_needs_no_host_and_has_no_upgrade(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await wire.answer()).status == 200
    async with dial(running.port) as wire:
        await wire.send(b"GET /v1/connect HTTP/1.0\r\nHost: a\r\n" + UPGRADE + b"\r\n")
        answer = await wire.answer()
        assert (answer.status, answer.code) == (426, "upgrade_required")
    assert not running.node.registry.sockets


async def test_a_refused_head_does_not_end_up_in_an_answer(running: Running) -> None:
    stream = f"GET /v1/state/tenant:a/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
    async with dial(running.port) as wire:
        await wire.send(stream.encode())
        assert (await wire.answer()).status == 200
        await wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert b"bad_request" not in await wire.rest()


async def test_an_upgrade_to_another_protocol_is_declined_by_answering(running: Running) -> None:
    """Java's HTTP client asks for h2c on every plain connection."""
    h2c = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    get = f"GET /healthz HTTP/1.1\r\nHost: x\r\n{h2c}\r\n".encode()
    body = b'{"topic":"tenant:java","state":{}}'
    post = (
        f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PUBLISH_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{h2c}\r\n"
    ).encode() + body
    async with dial(running.port) as wire:
        await wire.send(get)
        assert (await wire.answer()).status == 200
        await wire.send(post, get, GET)
        assert [(await wire.answer()).status for _ in range(3)] == [200, 200, 200]
        last = get.replace(b"Upgrade, HTTP2-Settings", b"close, Upgrade")
        await wire.send(last)
        assert (await wire.answer()).status == 200
        assert await wire.rest() == b""


async def test_a_connect_is_refused(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert (await wire.answer()).status == 400


async def test_a_socket_follows_an_answered_request_on_one_connection(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(GET)
        assert (await wire.answer()).status == 200
        await wire.send(head(), encode(TEXT, hello()))
        assert (await wire.answer()).status == 101
        assert (await wire.json())["type"] == "welcome"


async def test_a_socket_never_opens_inside_an_answer(running: Running) -> None:
    """An answer under way would be written among the frames."""
    wait = "GET /v1/state/tenant:a?min_version=9&wait_ms=2000 HTTP/1.1\r\nHost: x\r\n"
    async with dial(running.port) as wire:
        await wire.send(f"{wait}Authorization: Bearer {token()}\r\n\r\n".encode(), head({"Sec-WebSocket-Key": KEY}))
        assert b"101 Switching" not in await wire.rest()
    assert not running.node.registry.sockets


async def test_what_is_no_handshake_at_the_sockets_path_is_told_what_to_do(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(b"GET /v1/connect HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await wire.answer()
    assert (answer.status, answer.code) == (426, "upgrade_required")
    assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade")
    assert answer.headers["content-type"] == "application/problem+json"


# Before the door: a plain handshake goes straight to a socket.

BROWSERS = [
    head(),
    head({"Connection": "keep-alive, Upgrade"}),  # Firefox
    head({"Upgrade": "WebSocket", "Connection": "upgrade"}),
    head(path="/v1/connect?x=%20"),
    head(extra="X-Empty:\r\nCookie: a=b; c=d\r\n"),
]
ODD = [
    head({"Connection": "close"}),
    head({"Connection": None}),
    head({"Upgrade": "h2c"}),
    head({"Upgrade": "websockets"}),
    head(extra="X-Note: Upgrade: websocket\r\n", changes={"Upgrade": None}),
    head(method="POST"),
    head(path="http://x/v1/connect"),
    head().replace(b"HTTP/1.1", b"HTTP/1.0"),
    head().replace(b"\r\nHost", b"\nHost"),
    head(extra="X : space before the colon\r\n"),
    head(extra="X: folded\r\n lines\r\n"),
    head(extra="X: a\0b\r\n"),
    head() + b"x",
    head()[:-2],
    b"",
]


async def test_only_the_plain_form_of_a_handshake_is_taken_for_one() -> None:
    assert [protocols.is_handshake(one) for one in BROWSERS] == [True] * len(BROWSERS)
    assert [protocols.is_handshake(one) for one in ODD] == [False] * len(ODD)


async def test_a_browsers_handshake_makes_no_http_object(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(protocols.LimitedHttpProtocol, "connection_opened", lambda *_: made.append(_))
    for one in BROWSERS:
        async with dial(running.port) as wire:
            await wire.send(one, encode(TEXT, hello()))  # with the first frame behind it, as a hasty client might
            assert (await wire.answer()).status == 101
            assert (await wire.json())["type"] == "welcome"
    assert made == []


async def test_a_handshake_in_pieces_or_in_odd_form_is_understood_too(running: Running) -> None:
    whole = head(extra="X-Name: \u00e9\r\n")
    for cut in (1, 20, len(whole) - 1, len(whole)):
        async with dial(running.port) as wire:
            await wire.send(whole[:cut])
            await asyncio.sleep(0.01)  # one read for each piece
            await wire.send(whole[cut:], encode(TEXT, hello()))
            assert (await wire.answer()).status == 101
            assert (await wire.json())["type"] == "welcome"
    await until(lambda: not running.server.server_state.connections)
