"""WebSocket frames: encoding for all clients, parsing of one client's frames (RFC 6455 section 5, RFC 7692). Pure.

A frame is encoded once and shared by all sockets: whole, unmasked, and plain or compressed without context.
`whole_text` reads the simplest and most common frame. All others are read by a stricter version of the parser of
`websockets`.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Generator

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode, apply_mask  # type: ignore[attr-defined]  # in C, where it compiles
from websockets.protocol import Protocol, Side, State
from websockets.streams import StreamReader

DEFLATE_MIN_BYTES = 128
"""Minimum payload for compression, in bytes. Shorter payloads would hardly shrink."""

PING = b"\x89\x00"
EMPTY_PONG = b"\x8a\x80"
"""The head of a browser's answer to `PING`; only a mask of four bytes follows."""

_CLOSE_SENT = Close(1000, "")
_SILENT = logging.Logger("planwire.websocket", logging.CRITICAL)


def text(payload: bytes, deflate: bool) -> bytes:
    """Return a text frame of UTF-8 `payload`, compressed if `deflate` and long enough."""
    if deflate and len(payload) >= DEFLATE_MIN_BYTES:
        # Raw deflate, flushed to a byte boundary, less the four bytes that RFC 7692 section 7.2.1 removes.
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        return _frame(0xC1, (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4])
    return _frame(0x81, payload)


def whole_text(data: bytes, limit: int) -> bytes | None:
    """Return the payload if `data` is exactly one simple text frame of at most `limit` bytes, else None.

    Simple means: final, masked, uncompressed, below 64 KiB, with the shortest encoding of its length.
    """
    size = len(data)
    if size < 6 or data[0] != 0x81:
        return None
    length, head = data[1] - 0x80, 6
    if length == 126 and size > 8:
        length, head = data[2] << 8 | data[3], 8
        if length < 126:
            return None
    elif not 0 <= length < 126:
        return None
    if size != head + length or length > limit:
        return None
    return apply_mask(data[head:], data[head - 4 : head])


def close(code: int, reason: str) -> bytes:
    """Return a close frame; `reason` is cut to the 123 bytes that fit."""
    return _frame(0x88, struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode())


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload


class _StrictReader(StreamReader):
    """Also requires the shortest encoding of a frame's length (RFC 6455 section 5.2)."""

    def __init__(self) -> None:
        super().__init__()
        self._next = "head"

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        """Return the next `n` bytes. The parser reads a frame's head, extended length, mask and payload in turn."""
        data = yield from super().read_exact(n)
        match self._next:
            case "head":
                self._next = "length" if data[1] & 0x7F > 125 else "mask"
            case "length":
                if int.from_bytes(data, "big") < (126 if n == 2 else 65_536):
                    raise ProtocolError("a length in more bytes than it needs")
                self._next = "mask"
            case "mask":
                self._next = "payload"
            case _:
                self._next = "head"
        return data


class FrameParser(Protocol):
    """The library's parser, but it accepts a close frame between the fragments of a message.

    Attributes:
        is_between: the last message is complete, and no byte of the next frame has arrived.
        parts: the received parts of an unfinished message.
    """

    __slots__ = ("_is_text", "is_between", "parts")

    def __init__(self, max_bytes: int, extension: PerMessageDeflate | None) -> None:
        """Parse messages of at most `max_bytes`, compressed or not."""
        super().__init__(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=_SILENT)
        self.is_between = False
        self.parts: list[bytes] = []
        self._is_text = False
        if extension is not None:
            self.extensions = [extension]

    def parse(self) -> Generator[None]:
        """Parse frames with the strict reader."""
        self.reader = _StrictReader()
        yield from super().parse()

    def receive_data(self, data: bytes | bytearray) -> None:
        """Parse `data`."""
        self.is_between = False
        super().receive_data(data)

    def recv_frame(self, frame: Frame) -> None:
        """Handle one frame; a close may come between fragments and ends the message (RFC 6455 sections 5.4 and 5.5)."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)
        self.is_between = not self.reader.buffer and self.current_size is None

    def assemble(self, frame: Frame) -> tuple[bytes, bool] | None:
        """Return the message that a data frame completes, and whether it is text; None while it is unfinished."""
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self.parts.append(bytes(frame.data))
        if not frame.fin:
            return None
        parts, self.parts = self.parts, []
        return b"".join(parts), self._is_text

    def begin_close(self, failure: int | None) -> bool:
        """Record that our close frame is written: the peer's close frame is the answer to it.

        Args:
            failure: a close code after which parsing stops (RFC 6455 section 7.1.7); None otherwise.

        Returns:
            Whether there are replies to write.
        """
        if self.state is not State.OPEN:
            return False
        self.state = State.CLOSING
        self.close_sent = _CLOSE_SENT
        if failure is not None:
            self.fail(failure)
        return failure is not None
