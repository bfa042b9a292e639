"""Parses the frames of one client (RFC 6455 section 5): the parser of `websockets`, made strict."""

from __future__ import annotations

import logging
from collections.abc import Generator

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.streams import StreamReader

_CLOSE_SENT = Close(1000, "")
_SILENT = logging.Logger("planwire.websocket", logging.CRITICAL)


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
    """A parser that also accepts a close frame between the fragments of a message; the library reports an error.

    Attributes:
        is_between: the last frame is complete, its message too, and nothing of another has come.
    """

    __slots__ = ("is_between",)

    def __init__(self, max_bytes: int, extension: PerMessageDeflate | None) -> None:
        """Parse messages of at most `max_bytes`, compressed or not."""
        super().__init__(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=_SILENT)
        self.is_between = False
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
        """Take one frame; a close ends an unfinished message (RFC 6455 sections 5.4 and 5.5: it may come between)."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)
        self.is_between = not self.reader.buffer and self.current_size is None

    def begin_close(self, failure: int | None) -> bool:
        """Take the peer's close frame for an answer from now on: ours is written.

        Args:
            failure: a close code after which nothing more is parsed (RFC 6455 section 7.1.7); None otherwise.

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
