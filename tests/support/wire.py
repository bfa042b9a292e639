"""A WebSocket client that can do everything wrong: bytes on a TCP connection, and single frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.gateway import token

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455 section 1.3."""

HANDSHAKE = {
    "Host": "gateway.test",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "planwire.v1",
}

DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}


def encode(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True, length: int | None = None
) -> bytes:
    """Return one frame. `rsv`: 4 is RSV1, 2 RSV2, 1 RSV3; `length`: what the header claims, if not the truth."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    if not mask:
        return head + payload
    key = b"\x11\x22\x33\x44"
    masked = (
        (int.from_bytes(payload, "big") ^ int.from_bytes((key * (len(payload) // 4 + 1))[: len(payload)], "big"))
        if payload
        else 0
    )
    return head + key + masked.to_bytes(len(payload), "big")


def deflated(payload: bytes) -> bytes:
    """Return `payload` as permessage-deflate puts it into a frame."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def hello(*topics: str, **fields: Any) -> bytes:
    """Return the text of a hello that is accepted."""
    return json.dumps(
        {"type": "hello", "token": token(), "topics": dict.fromkeys(topics, 0), **fields}, ensure_ascii=False
    ).encode()


@dataclass(frozen=True)
class Frame:
    """One frame as it came."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int


@dataclass(frozen=True)
class Answer:
    """The head of an HTTP answer, names in lower case, and what of the body was asked for."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a problem document."""
        code: str = json.loads(self.body)["code"]
        return code


class Wire:
    """A TCP connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        """Write all parts at once."""
        self.writer.write(b"".join(parts))
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self, timeout_s: float = 5.0) -> Answer:
        """Return the next HTTP answer; of a 101 only the head."""
        async with asyncio.timeout(timeout_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {}
            for line in head[1:-2]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

    async def frame(self, timeout_s: float = 5.0) -> Frame:
        """Return the next frame, which must not be masked."""
        async with asyncio.timeout(timeout_s):
            first, second = await self.reader.readexactly(2)
            assert second < 128, "a server must not mask"
            size = second
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            payload = await self.reader.readexactly(size)
        return Frame(first & 15, payload, first >= 128, first >> 4 & 7)

    async def until(self, opcode: int, timeout_s: float = 5.0) -> Frame:
        """Return the next frame of a kind, dropping others."""
        async with asyncio.timeout(timeout_s):
            while True:
                frame = await self.frame(timeout_s)
                if frame.opcode == opcode:
                    return frame

    async def json(self) -> dict[str, Any]:
        """Return the next text frame's object."""
        document: dict[str, Any] = json.loads((await self.until(TEXT)).payload)
        return document

    async def closed(self, timeout_s: float = 5.0) -> tuple[int, str]:
        """Return code and reason of the close frame; nothing may come after it, and the connection must end."""
        frame = await self.until(CLOSE, timeout_s)
        assert await self.rest(timeout_s) == b"", "bytes after the close frame"
        if not frame.payload:
            return 1005, ""
        return struct.unpack("!H", frame.payload[:2])[0], frame.payload[2:].decode()

    async def rest(self, timeout_s: float = 5.0) -> bytes:
        """Return everything until the connection ends; a reset counts as an end."""
        data = b""
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    data += piece
        return data

    def reset(self) -> None:
        """End the connection with a RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def dial(port: int, host: str = "127.0.0.1", source: str | None = None) -> AsyncIterator[Wire]:
    """Open a connection, from the address `source` if given, and do nothing."""
    reader, writer = await asyncio.open_connection(host, port, local_addr=None if source is None else (source, 0))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def head(
    changes: Mapping[str, str | None] | None = None, path: str = "/v1/connect", method: str = "GET", extra: str = ""
) -> bytes:
    """Return an opening handshake; `changes` replaces headers, None leaves one out; `extra` are whole lines."""
    headers = {**HANDSHAKE, **(changes or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}{extra}\r\n".encode()


@contextlib.asynccontextmanager
async def shake(port: int, changes: Mapping[str, str | None] | None = None) -> AsyncIterator[Wire]:
    """Open a connection and a WebSocket on it."""
    async with dial(port) as wire:
        await wire.send(head(changes))
        answer = await wire.answer()
        assert answer.status == 101, answer
        yield wire


@contextlib.asynccontextmanager
async def greet(port: int, *topics: str, changes: Mapping[str, str | None] | None = None) -> AsyncIterator[Wire]:
    """Open a session: the hello is sent and the welcome received."""
    async with shake(port, changes) as wire:
        await wire.send(encode(TEXT, hello(*topics)))
        assert (await wire.json())["type"] == "welcome"
        yield wire
