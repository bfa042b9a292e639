"""A client that takes connections and does not use them: as many as it can get, again as soon as one is ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from tests.support.gateway import token
from tests.support.wire import head

ESTABLISHED = 1
"""The state of a connection in the first byte of TCP_INFO."""

LOOK_S = 0.1
"""How often the attacker looks whether a connection is still its own, and sends the next byte."""

RECEIVE_BUFFER_BYTES = 4096


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Return an HTTP/1.1 request."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: gateway.test", *headers, "", ""]).encode() + body


LONG = "Content-Length: 1000000"


@dataclass(frozen=True)
class Kind:
    """What is sent on each connection, and what follows every LOOK_S. Answers are never read."""

    first: bytes
    then: bytes = b""


KINDS = {
    "silence": Kind(b""),
    "a head byte by byte": Kind(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: ", b"a"),
    "idle after an answer": Kind(request("GET /healthz")),
    "a body after its 405": Kind(request("POST /healthz", LONG), b"a"),
    "a body after its 404": Kind(request("POST /nowhere", LONG), b"a"),
    "a body after its 401": Kind(request("POST /v1/publish", LONG), b"a"),
    "a body of a GET": Kind(request("GET /healthz", "Transfer-Encoding: chunked", body=b"fffff\r\n"), b"a"),
    "a body of a refused stream": Kind(request("GET /v1/state/tenant:a/events", LONG), b"a"),
    "answers unread": Kind(request("GET /v1/openapi.json") * 20),
    "a last answer unread": Kind(request("GET /v1/openapi.json") * 5 + request("GET /healthz", "Connection: close")),
    "no hello": Kind(head()),
    "streams unread": Kind(
        request("GET /v1/state/tenant:acme/events", f"Authorization: Bearer {token(sub='attacker')}")
    ),
}
"""Every way to hold a connection that is tried."""


@dataclass
class Attacker:
    """The connections of one attacker.

    Attributes:
        held: connections that it has now.
        opened: connections that it has had.
    """

    held: set[socket.socket] = field(default_factory=set)
    opened: int = 0

    async def hold(self, port: int, kind: Kind, source: str, pause_s: float) -> None:
        """Hold one connection, and open another that long after it is ended."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError), socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                sock.setblocking(False)
                sock.bind((source, 0))
                await loop.sock_connect(sock, ("127.0.0.1", port))
                self.opened += 1
                self.held.add(sock)
                try:
                    await loop.sock_sendall(sock, kind.first)
                    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED:
                        await asyncio.sleep(LOOK_S)
                        if kind.then:
                            await loop.sock_sendall(sock, kind.then)
                finally:
                    self.held.discard(sock)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))


@contextlib.asynccontextmanager
async def attack(
    port: int, kind: Kind, connections: int, sources: Sequence[str] = ("127.0.0.1",), pause_s: float = 1.0
) -> AsyncIterator[Attacker]:
    """Hold connections to a port of this machine while the context is open.

    Args:
        port: the port.
        kind: what is sent on each.
        connections: how many.
        sources: the addresses they come from, each as many.
        pause_s: seconds, on average, until one that was ended is opened again.
    """
    attacker = Attacker()
    tasks = [
        asyncio.create_task(attacker.hold(port, kind, source, pause_s))
        for source, _ in zip(itertools.cycle(sources), range(connections), strict=False)
    ]
    try:
        yield attacker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
