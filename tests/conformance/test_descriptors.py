"""Frames go straight to descriptors: none ever reaches a descriptor that has become somebody else's.

However a socket ends, its number is free soon after, and the next one who opens anything gets it. So sockets end here
in every way there is, frames are fanned out before, between and after each step of that, and strangers stand by that
take every number as soon as it is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from gateway.hub import fanout
from gateway.ws import connection, frames
from gateway.ws.session_socket import SessionSocket
from planwire_client.core.frames import CloseCode
from sync.core.announcement import Announcement
from sync.store.keys import DEFAULT_KEYS as keys
from tests.support.announcements import payload_of
from tests.support.gateway import Running, environment, run_gateway
from tests.support.wait import until
from tests.support.wire import CLOSE, TEXT, encode, head, hello

TOPIC = "tenant:numbers"
EACH = 6
"""Sockets that end in each way."""

BIG = 20_000
"""Bytes of a state: with the small buffers of the deaf ones, few of them fit."""


class Watched:
    """Every direct write, checked: to the very connection that the socket which has this number was made for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made_for: dict[SessionSocket, int] = {}
        self.writes = self.failed = 0
        self.strays: list[str] = []
        open_lane = SessionSocket._enable_direct_write

        def opened(sock: SessionSocket) -> None:
            open_lane(sock)
            if sock.direct_fd >= 0:
                self.made_for.setdefault(sock, os.fstat(sock.direct_fd).st_ino)

        monkeypatch.setattr(SessionSocket, "_enable_direct_write", opened)
        monkeypatch.setattr(fanout, "write_fd", self.write)
        monkeypatch.setattr(connection, "write_fd", self.write)

    def write(self, fd: int, data: bytes) -> int:
        self.writes += 1
        owners = {inode for sock, inode in self.made_for.items() if sock.direct_fd == fd}
        try:
            there = os.fstat(fd).st_ino
        except OSError:
            there = -1
        if owners != {there}:
            self.strays.append(f"{fd}: of {owners}, is {there}")
        sent = 0
        try:
            sent = os.write(fd, data)
        finally:
            self.failed += sent < len(data)
        return sent


class Strangers:
    """Connections of somebody else's, which take the lowest free numbers and must never hear a thing."""

    def __init__(self) -> None:
        self.pairs: list[socket.socket] = []

    def come(self) -> None:
        for _ in range(8):
            pair = socket.socketpair()
            for one in pair:
                one.setblocking(False)
            self.pairs += pair

    def heard(self) -> list[bytes]:
        found = []
        for one in self.pairs:
            with contextlib.suppress(BlockingIOError):
                found.append(one.recv(100))
        return found

    def leave(self) -> None:
        for one in self.pairs:
            one.close()


async def dial(port: int, *, deaf: bool = False) -> socket.socket:
    """Return a plain socket whose session has been greeted."""
    sock = socket.socket()
    if deaf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, head() + encode(TEXT, hello(TOPIC)))
    heard = b""
    while b'"snapshot"' not in heard:
        piece = await loop.sock_recv(sock, 4096)
        assert piece, heard
        heard += piece
    return sock


def reset(peer: socket.socket, _: SessionSocket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def hang_up(peer: socket.socket, _: SessionSocket) -> None:
    peer.close()


def close_half(peer: socket.socket, _: SessionSocket) -> None:
    peer.shutdown(socket.SHUT_WR)


def close_politely(peer: socket.socket, _: SessionSocket) -> None:
    peer.send(encode(CLOSE, struct.pack("!H", 1000)))


def break_the_protocol(peer: socket.socket, _: SessionSocket) -> None:
    peer.send(encode(TEXT, b"unmasked", mask=False))


def be_aborted(_: socket.socket, sock: SessionSocket) -> None:
    sock.abort()


def be_closed(_: socket.socket, sock: SessionSocket) -> None:
    sock.close(CloseCode.GOING_AWAY, "going away")


def transport_closes(_: socket.socket, sock: SessionSocket) -> None:
    """As uvloop itself would: not through us."""
    assert sock.transport is not None
    sock.transport.close()


def transport_aborts(_: socket.socket, sock: SessionSocket) -> None:
    assert sock.transport is not None
    sock.transport.abort()


WAYS: list[Callable[[socket.socket, SessionSocket], None]] = [
    reset,
    hang_up,
    close_half,
    close_politely,
    break_the_protocol,
    be_aborted,
    be_closed,
    transport_closes,
    transport_aborts,
]


@contextlib.contextmanager
def closing(peers: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for peer in peers:
            peer.close()


def fan_out(running: Running, versions: Iterator[int]) -> None:
    """Have the hub write a new version to all sockets now, within this turn of the event loop."""
    state = b'{"pad":"%b"}' % (b"x" * BIG)
    one = Announcement(next(versions), 0, b"", b"", state)
    running.node.hub.announce(keys.channel(TOPIC).encode(), payload_of(one))


async def end_all(running: Running, strangers: Strangers, deaf: bool) -> None:
    """Open sockets, end them in every way, a few of each, with frames before, between and after."""
    versions = itertools.count(running.node.hub.topic(TOPIC).version + 1)  # type: ignore[union-attr]
    for way in WAYS:
        peers: list[socket.socket] = []
        with closing(peers):
            pairs = []
            for _ in range(EACH):
                known = set(running.node.registry.sockets)
                peers.append(await dial(running.port, deaf=deaf))
                (sock,) = running.node.registry.sockets - known
                pairs.append((peers[-1], sock))
            for _ in range(8 if deaf else 1):
                fan_out(running, versions)
            if deaf:
                assert all(sock.pending is not None and sock.buffered_bytes() for _, sock in pairs), way.__name__
            for number, (peer, sock) in enumerate(pairs):
                way(peer, sock)
                if number % 2:
                    await asyncio.sleep(0)  # the others end in the same turn as the frame is written
                fan_out(running, versions)
            for _ in range(6):
                strangers.come()
                fan_out(running, versions)
                for _, sock in pairs:
                    with contextlib.suppress(RuntimeError):  # the transport says so when it is closed
                        sock.write(frames.PING)  # as whoever still holds on to it might
                await asyncio.sleep(0)
            for peer, _ in pairs:
                peer.close()
        await until(lambda: not running.node.registry.sockets)
        for _, sock in pairs:
            assert sock.direct_fd == -1, way.__name__


@pytest.mark.parametrize("deaf", [False, True], ids=["reading", "with frames waiting"])
async def test_no_frame_reaches_a_strangers_descriptor(
    store_url: str, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    watched, strangers = Watched(monkeypatch), Strangers()
    async with run_gateway(environment(store_url, SWEEP_S="3600", SEND_BUFFER_BYTES="4096")) as running:
        first = await dial(running.port)
        with closing([first]):
            await until(lambda: len(running.node.registry.sockets) == 1)
            (sock,) = running.node.registry.sockets
            assert sock.transport is not None
            # One byte that waits already ends direct writes: a frame written past it would arrive before it.
            assert sock.transport.get_write_buffer_limits() == (0, 0)
            await asyncio.get_running_loop().sock_sendall(first, encode(CLOSE, struct.pack("!H", 1000)))
            await until(lambda: not running.node.registry.sockets)
        try:
            await end_all(running, strangers, deaf)
            assert watched.strays == []
            assert strangers.heard() == []
            assert watched.writes > len(WAYS) * EACH
            assert watched.failed > 0, "every descriptor took every frame whole: nothing was tried"
            # And a stopping server: all that is open ends at once.
            last = [await dial(running.port) for _ in range(EACH)]
            running.server.should_exit = True
            versions = itertools.count(2**50)
            with closing(last):
                for _ in range(20):
                    fan_out(running, versions)
                    strangers.come()
                    await asyncio.sleep(0.01)  # the server looks every 100 ms whether it is to stop
            while running.server.server_state.connections:
                fan_out(running, versions)
                await asyncio.sleep(0.001)
            strangers.come()
            assert watched.strays == []
            assert strangers.heard() == []
        finally:
            strangers.leave()
