"""A client that reads when the test says so, and otherwise lets the gateway's bytes pile up."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from tests.support.gateway import Running, token


class SlowSocket:
    """A client socket with small buffers, which reads only when the test calls `read`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.protocol = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
        self.versions: dict[str, int] = {}
        self.states = 0
        self.types: list[str] = []
        self.close_code: int | None = None

    async def send(self, frame: dict[str, object]) -> None:
        self.protocol.send_text(json.dumps(frame).encode())
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(self.protocol.data_to_send()))

    async def read(self) -> bool:
        """Read what is there, and return whether there may be more."""
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        if not data:
            return False
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT:
                self.take(json.loads(bytes(event.data)))
        close = self.protocol.close_rcvd
        self.close_code = None if close is None else close.code
        return self.close_code is None

    def take(self, frame: dict[str, object]) -> None:
        self.types.append(str(frame["type"]))
        if frame["type"] in ("snapshot", "current"):
            topic, version = str(frame["topic"]), frame["version"]
            assert isinstance(version, int)
            assert version >= self.versions.get(topic, -1), "an older version after a newer one"
            self.versions[topic] = version
            self.states += 1

    async def read_until(self, wanted: dict[str, int], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while self.versions != wanted:
                assert await self.read(), "closed"


@asynccontextmanager
async def open_slow_socket(running: Running, *topics: str) -> AsyncIterator[SlowSocket]:
    """Connect with small buffers and subscribe."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", running.port))
        head = (
            "GET /v1/connect HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: planwire.v1\r\n\r\n"
        )
        await loop.sock_sendall(sock, head.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += (more := await loop.sock_recv(sock, 1))
            assert more, answer
        assert answer.startswith(b"HTTP/1.1 101")
        slow = SlowSocket(sock)
        await slow.send({"type": "hello", "token": token(), "topics": dict.fromkeys(topics, 0)})
        await slow.read_until(dict.fromkeys(topics, 0))
        yield slow
    finally:
        sock.close()
