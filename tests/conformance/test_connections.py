"""HTTP connections: whatever a client leaves undone has a deadline, and who does nothing makes room for who comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.metrics import Metrics
from gateway.server import connections
from gateway.server.connections import HttpConnections, Wait
from gateway.settings import GatewaySettings
from sync.store.models import Change
from sync.store.store import Store
from tests.support.attacker import KINDS, request
from tests.support.gateway import PUBLISH_KEY, Running, environment, run_gateway, token
from tests.support.wait import until
from tests.support.wire import Wire, dial, greet, head, shake

SOON_S = 0.3
LONG_S = 60.0
WELL_BEFORE_S = 12.0
"""What ends before this was not ended by a timeout of the defaults."""

NO_ADDRESS_LIMIT = {"TRUSTED_PROXIES": "127.0.0.1"}

GET = request("GET /healthz")
BEARER = f"Authorization: Bearer {token()}"
STREAM = request("GET /v1/state/tenant:acme/events", BEARER)


@contextlib.asynccontextmanager
async def deaf(port: int) -> AsyncIterator[socket.socket]:
    """Open a connection on which nothing is read."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        yield sock


def dropped(running: Running) -> dict[str, int]:
    return dict(running.node.metrics.connections_dropped)


# Bodies that do not end.

UNFINISHED = {
    "405": request("POST /healthz", "Content-Length: 100000"),
    "404": request("POST /nowhere", "Content-Length: 100000"),
    "401": request("POST /v1/publish", "Content-Length: 100000"),
    "a GET in chunks": request("GET /healthz", "Transfer-Encoding: chunked", body=b"fffff\r\n"),
    "a stream's 401": request("GET /v1/state/tenant:acme/events", "Content-Length: 100000"),
    "a 413": request("POST /v1/publish", f"Authorization: Bearer {PUBLISH_KEY}", "Content-Length: 100000"),
}


@pytest.mark.parametrize("name", UNFINISHED)
@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "trickling"])
async def test_the_rest_of_a_body_has_a_deadline_after_its_answer(store_url: str, name: str, trickles: bool) -> None:
    async with run_gateway(environment(store_url, BODY_TIMEOUT_S=str(SOON_S))) as running, dial(running.port) as wire:
        await wire.send(UNFINISHED[name])
        assert (await wire.answer()).status in (200, 401, 404, 405, 413)
        started = time.monotonic()
        await wire.send(b"a")
        ended = asyncio.create_task(wire.rest(WELL_BEFORE_S))
        while trickles and not ended.done():
            with contextlib.suppress(RuntimeError):  # it has just ended
                await wire.send(b"a")
            await asyncio.wait([ended], timeout=0.02)
        assert await ended == b""
        assert time.monotonic() - started > SOON_S * 0.5
        assert dropped(running) == {"body_timeout": 1}
        await until(lambda: len(running.server.connections) == 0)
        assert running.node.metrics.http_connections == 0


async def test_a_body_that_nobody_reads_has_a_deadline_too(store_url: str, store: Store) -> None:
    """An event stream is served while its request's body is still to come."""
    await store.commit(Change("tenant:acme", b'{"n":1}'))
    stream = request("GET /v1/state/tenant:acme/events", BEARER, "Content-Length: 100000")
    async with run_gateway(environment(store_url, BODY_TIMEOUT_S=str(SOON_S))) as running, dial(running.port) as wire:
        await wire.send(stream)
        assert b"event: snapshot" in await wire.rest(WELL_BEFORE_S)
        assert dropped(running) == {"body_timeout": 1}
        await until(lambda: running.node.metrics.streams == 0)


async def test_a_body_in_time_after_its_answer_leaves_the_connection_usable(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, dial(running.port) as wire:
        await wire.send(UNFINISHED["401"])
        assert (await wire.answer()).status == 401
        await wire.send(b" " * 100_000, GET)
        assert (await wire.answer()).status == 200
        assert dropped(running) == {}


# Answers that nobody reads.

UNREAD = request("GET /v1/openapi.json") * 20
FOLLOWED_BY = {
    "nothing": b"",
    "a request to close": request("GET /healthz", "Connection: close"),
    "half a head": b"GET / HTTP/1.1\r\n",
    "garbage": b"garbage\r\n\r\n",
    "a handshake": head(),
}


@pytest.mark.parametrize("name", FOLLOWED_BY)
async def test_an_answer_that_nobody_reads_ends_its_connection(
    store_url: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_gateway(environment(store_url, SEND_TIMEOUT_S=str(SOON_S))) as running, deaf(running.port) as sock:
        loop, table = asyncio.get_running_loop(), running.server.connections
        await loop.sock_sendall(sock, UNREAD)
        await until(lambda: [entry.wait for entry in table._entries.values()] == [Wait.READ])
        await loop.sock_sendall(sock, FOLLOWED_BY[name])
        await until(lambda: len(table) == 0, WELL_BEFORE_S)
        assert dropped(running) == {"send_timeout": 1}
        await until(lambda: not running.server.server_state.connections)
        await until(lambda: not running.server.server_state.tasks)
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("drops", [False, True], ids=["by itself", "dropped"])
async def test_a_client_that_goes_while_it_is_answered_is_no_error(
    store_url: str, drops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_gateway(environment(store_url)) as running, deaf(running.port) as sock:
        loop, table = asyncio.get_running_loop(), running.server.connections
        await loop.sock_sendall(sock, UNREAD)
        await until(lambda: [entry.wait for entry in table._entries.values()] == [Wait.READ])
        if drops:
            assert table._make_room("connections_max", table._waiting)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        await until(lambda: not running.server.server_state.connections)
        await until(lambda: not running.server.server_state.tasks)
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_a_stream_that_nobody_reads_ends_with_its_connection(store_url: str, store: Store) -> None:
    """A place among the streams is never free while the connection lives on."""
    async with run_gateway(environment(store_url, SEND_TIMEOUT_S=str(SOON_S))) as running, deaf(running.port) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, STREAM)
        await until(lambda: running.node.metrics.streams == 1)
        for number in range(20):
            await store.commit(Change("tenant:acme", b'{"n":%d,"pad":"%b"}' % (number, b"x" * 30_000)))
            await asyncio.sleep(0.01)  # each is announced by itself
        await until(lambda: running.node.metrics.streams == 0, WELL_BEFORE_S)
        await until(lambda: not running.server.server_state.connections)
        assert dropped(running) == {"send_timeout": 1}


async def test_who_reads_slowly_gets_the_whole_answer(store_url: str) -> None:
    wanted = 20
    async with run_gateway(environment(store_url, SEND_TIMEOUT_S="1")) as running, deaf(running.port) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, request("GET /v1/openapi.json") * wanted)
        data, started = b"", time.monotonic()
        while time.monotonic() < started + 3:
            data += await loop.sock_recv(sock, 8192)
            await asyncio.sleep(0.05)
        while data.count(b'"openapi":') < wanted:
            data += await loop.sock_recv(sock, 65_536)
        assert dropped(running) == {}


# No room.

WAITING = {
    "silence": Wait.HEAD,
    "a head byte by byte": Wait.HEAD,
    "idle after an answer": Wait.NEXT,
    "answers unread": Wait.READ,
    "a last answer unread": Wait.READ,
    "no hello": Wait.HELLO,
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "streams unread"])
async def test_who_does_nothing_makes_room_for_who_comes(store_url: str, kind: str) -> None:
    limits = {"CONNECTIONS_MAX": "8", "BODY_TIMEOUT_S": str(LONG_S), "SEND_TIMEOUT_S": str(LONG_S)}
    async with run_gateway(environment(store_url, **NO_ADDRESS_LIMIT, **limits)) as running, AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        held = [await stack.enter_async_context(deaf(running.port)) for _ in range(8)]
        for sock in held:
            await loop.sock_sendall(sock, KINDS[kind].first)
        table, wait = running.server.connections, WAITING.get(kind, Wait.REST)
        await until(lambda: [entry.wait for entry in table._entries.values()] == [wait] * 8)
        async with asyncio.timeout(WELL_BEFORE_S):
            await stack.enter_async_context(greet(running.port, "tenant:acme"))
            wire = await stack.enter_async_context(dial(running.port))
            await wire.send(request("GET /readyz"))
            assert (await wire.answer()).status == 200
        assert running.node.metrics.sockets >= 1
        assert len(running.server.connections) <= 8
        assert set(dropped(running)) == {"connections_max"}


async def test_the_one_that_has_waited_longest_goes_first(store_url: str) -> None:
    async with (
        run_gateway(environment(store_url, **NO_ADDRESS_LIMIT, CONNECTIONS_MAX="3")) as running,
        AsyncExitStack() as stack,
    ):
        wires: list[Wire] = []
        for number in range(3):
            wires.append(await stack.enter_async_context(dial(running.port)))
            await until(lambda number=number: len(running.server.connections) == number + 1)  # type: ignore[misc]
        await wires[0].send(GET)  # whoever uses its connection comes last
        assert (await wires[0].answer()).status == 200
        async with dial(running.port) as new:
            await new.send(GET)
            assert (await new.answer()).status == 200
            assert await wires[1].rest() == b""
        for wire in (wires[0], wires[2]):
            await wire.send(GET)
            assert (await wire.answer()).status == 200


async def test_what_is_served_makes_no_room(store_url: str) -> None:
    limits = environment(store_url, **NO_ADDRESS_LIMIT, CONNECTIONS_MAX="1")
    async with run_gateway(limits) as running, dial(running.port) as stream:
        await stream.send(STREAM)
        assert (await stream.answer()).status == 200
        async with dial(running.port) as new:
            answer = await new.answer()
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "busy", "2")
            assert await new.rest() == b""
        assert dropped(running) == {"connections_max": 1}
        assert running.node.metrics.streams == 1
        stream.reset()
        await until(lambda: len(running.server.connections) == 0)
        async with dial(running.port) as new:
            await new.send(GET)
            assert (await new.answer()).status == 200


async def test_an_address_makes_room_among_its_own(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONNECTIONS_PER_ADDRESS="2")) as running, AsyncExitStack() as stack:
        other = await stack.enter_async_context(dial(running.port))
        await until(lambda: len(running.server.connections) == 1)
        mine = [await stack.enter_async_context(dial(running.port, source="127.0.0.2")) for _ in range(4)]
        await until(lambda: dropped(running) == {"address": 2})
        assert len(running.server.connections) == 3
        for wire in (other, *mine[2:]):
            await wire.send(GET)
            assert (await wire.answer()).status == 200


async def test_an_address_whose_connections_are_all_served_has_no_room(store_url: str) -> None:
    limits = environment(store_url, CONNECTIONS_PER_ADDRESS="1")
    async with run_gateway(limits) as running, dial(running.port, source="127.0.0.2") as stream:
        await stream.send(STREAM)
        assert (await stream.answer()).status == 200
        async with dial(running.port, source="127.0.0.2") as new:
            answer = await new.answer()
            assert (answer.status, answer.code) == (429, "too_many_connections")
            assert answer.headers["retry-after"] == "5"
        assert dropped(running) == {"address": 1}
        async with dial(running.port) as other:
            await other.send(GET)
            assert (await other.answer()).status == 200


async def test_trusted_proxies_have_as_many_as_they_like(store_url: str) -> None:
    limits = {"CONNECTIONS_PER_ADDRESS": "2", "TRUSTED_PROXIES": "127.0.0.2"}
    async with run_gateway(environment(store_url, **limits)) as running, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(running.port, source="127.0.0.2")) for _ in range(10)]
        await until(lambda: len(running.server.connections) == 10)
        for wire in wires:
            await wire.send(GET)
            assert (await wire.answer()).status == 200
        assert dropped(running) == {}


async def test_a_greeted_socket_is_no_http_connection_any_more(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONNECTIONS_PER_ADDRESS="2")) as running, AsyncExitStack() as stack:
        for _ in range(6):
            await stack.enter_async_context(greet(running.port, "tenant:acme"))
        assert len(running.server.connections) == 0
        await stack.enter_async_context(shake(running.port))
        assert len(running.server.connections) == 1
        assert running.node.metrics.http_connections == 1
        assert dropped(running) == {}
    assert not running.server.connections._by_address
    assert not running.server.connections._waiting


async def test_an_idle_connection_is_kept_as_long_as_the_setting_says(store_url: str) -> None:
    async with run_gateway(environment(store_url, KEEP_ALIVE_S=str(SOON_S))) as running, dial(running.port) as wire:
        for _ in range(2):
            await wire.send(GET)
            assert (await wire.answer()).status == 200
        started = time.monotonic()
        assert await wire.rest(WELL_BEFORE_S) == b""
        assert time.monotonic() - started > SOON_S * 0.5
        assert dropped(running) == {}


# Descriptors.


async def test_without_a_free_descriptor_who_waits_is_dropped(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_gateway(environment(store_url)) as running, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(running.port)) for _ in range(2)]
        await until(lambda: len(running.server.connections) == 2)
        monkeypatch.setattr(connections, "_is_descriptor_free", lambda: False)
        for wire in wires:
            assert await wire.rest() == b""
        assert dropped(running) == {"descriptors": 2}
        assert running.node.metrics.accept_failures > 0


# Many at once.


async def test_a_connection_whose_transport_has_ended_is_dropped_without_a_word() -> None:
    """It is in the table until its protocol is told."""

    class Ended(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return None

        def get_write_buffer_size(self) -> int:
            return 0

    table = HttpConnections(limits(CONNECTIONS_MAX="1"), Metrics())
    ended, new = Silent(), Silent()
    ended.transport = Ended()
    assert table.add(ended, "10.0.0.1") == ""
    table.look(time.monotonic())
    assert table.add(new, "10.0.0.2") == ""
    assert ended.is_aborted


def limits(**values: str) -> GatewaySettings:
    return GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": "x" * 32} | {f"PLANWIRE_{k}": v for k, v in values.items()})


class Silent:
    """A connection of which nothing is to be seen."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_books_agree(seed: int) -> None:
    chance = random.Random(seed)
    metrics = Metrics()
    table = HttpConnections(limits(CONNECTIONS_MAX="40", CONNECTIONS_PER_ADDRESS="7"), metrics)
    known: list[Silent] = []
    for _ in range(2000):
        known = [one for one in known if not one.is_aborted]
        action = chance.choice([0, 0, 0, 1, 1, 2, 3])
        if action == 0 or not known:
            one = Silent()
            if not table.add(one, f"10.0.0.{chance.randrange(12)}"):
                known.append(one)
        elif action == 1:
            table.waits(chance.choice(known), chance.choice([None, *Wait]))
        elif action == 2:
            one = known.pop(chance.randrange(len(known)))
            table.remove(one)
            table.remove(one)
        else:
            index = chance.randrange(len(known))
            other = Silent()
            table.replace(known[index], other)
            known[index] = other
        known = [one for one in known if not one.is_aborted]
        assert set(table._entries) == set(known)
        assert metrics.http_connections == len(known) <= 40
        assert all(0 < len(of_address) <= 7 for of_address in table._by_address.values())
        assert sum(map(len, table._by_address.values())) == len(known)
        assert set(table._waiting) == {one for one, entry in table._entries.items() if entry.wait is not None}
    assert set(metrics.connections_dropped) == {"address", "connections_max"}


def test_every_reason_is_one_of_a_fixed_few() -> None:
    assert set(connections.REASONS.values()) | {"send_timeout", "address", "connections_max", "descriptors"} == set(
        connections.EVENTS
    )
