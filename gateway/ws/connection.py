"""RFC 6455 on one asyncio transport: frames in, frames out, close. One object per socket, no task and no queue.

Every connection starts as a `WebSocket`. By its first bytes, `Acceptor` decides whether it stays one.
"""

from __future__ import annotations

import asyncio
import os
from os import write as write_fd
from typing import Any, ClassVar, cast

from uvicorn.server import ServerState
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from gateway.auth.addresses import LOCAL
from gateway.ws import frames, handshake
from gateway.ws.handshake import NO_ROOM, Acceptor, HandshakeRejected, Headers
from planwire_client.core.frames import SUBPROTOCOL, CloseCode

FRAGMENTS_MAX = 256
"""Maximum number of frames in one message. Its size is limited separately."""

SLICE_BYTES = 4096
"""Bytes that are parsed before their frames are handled, so that a flood in one read is cut off early."""

_FAILURES = frozenset((1007, CloseCode.PROTOCOL_ERROR, CloseCode.NO_HELLO, CloseCode.TOO_LARGE, CloseCode.LIMIT))
"""Close codes after which nothing from the peer is parsed (RFC 6455 section 7.1.7)."""


class WebSocket(asyncio.Protocol):
    """RFC 6455 on one transport. A subclass admits clients and handles messages.

    Attributes:
        direct_fd: the descriptor while frames may be written directly to it, else -1; see `_enable_direct_write`.
        is_closing: a close frame was sent.
        close_code: why the connection ended or is ending.
    """

    __slots__ = (
        "_acceptor",
        "_cork",
        "_extension",
        "_is_upgraded",
        "_parser",
        "close_code",
        "direct_fd",
        "is_closing",
        "server_state",
        "transport",
    )

    transport: asyncio.Transport  # set by `connection_made`

    path: ClassVar[bytes] = b"/v1/connect"
    subprotocol: ClassVar[str | None] = SUBPROTOCOL
    fragments_max: ClassVar[int] = FRAGMENTS_MAX

    def __init__(self, server_state: ServerState, app_state: dict[str, Any], acceptor: Acceptor) -> None:
        """Create it with uvicorn's objects. `acceptor` handles the first bytes."""
        self.server_state = server_state
        self._acceptor = acceptor
        self._is_upgraded = False
        self._parser: frames.FrameParser | None = None
        self._extension: PerMessageDeflate | None = None
        self.is_closing = False
        self.close_code = 1006
        self._cork: list[bytes] | None = None
        self.direct_fd = -1

    # Overridden by the subclass.

    def admit(self, headers: Headers) -> None:
        """Return if a client with these headers may connect.

        Raises:
            HandshakeRejected: it may not.
        """

    def frame_limit(self) -> int:
        """Return the maximum size of a message in bytes, compressed or not."""
        return 65_536

    def on_open(self) -> None:
        """The handshake has succeeded; its answer is written next."""
        self._acceptor.connection_settled(self)

    def received(self, data: bytes, is_text: bool) -> None:
        """A whole message was received; text is valid UTF-8."""

    def control(self) -> bool:
        """A ping, a pong or a part of a message was received. Return whether it is within the rate limit."""
        return True

    def on_closing(self) -> None:
        """A close frame was sent. The subclass limits the time for the peer's answer."""

    def on_lost(self) -> None:
        """The connection has ended. Called once, and only after `on_open`."""

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a new connection, or reject it if there is no room. The request head follows as the first data."""
        # uvloop's transports do not derive from asyncio's classes.
        self.take_over(cast(asyncio.Transport, transport))
        if reached := self._acceptor.connection_opened(self, self.peer_address()):
            self._reject(NO_ROOM[reached])

    def take_over(self, transport: asyncio.Transport) -> None:
        """Take a connection whose request head has been read."""
        self.transport = transport
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Take the request head, then frames."""
        if not self._is_upgraded:
            if not self.transport.is_closing():
                self._acceptor.first_bytes_received(self, self.transport, data)
            return
        # Fast path: nearly every read is one short text frame or an empty pong. The parser handles the rest.
        if self._parser is None and not self.is_closing:
            payload = frames.whole_text(data, self.frame_limit())
            if payload is not None:
                self._message(payload, True)
                return
            if data[:2] == frames.EMPTY_PONG and len(data) == 6:
                self._count_control()
                return
        for start in range(0, len(data), SLICE_BYTES):
            self._receive(data[start : start + SLICE_BYTES])

    def eof_received(self) -> None:
        """Let the transport close when the client has closed its half."""
        self.direct_fd = -1

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the socket."""
        self.direct_fd = -1
        self.server_state.connections.discard(self)
        self._acceptor.connection_settled(self)
        if self._is_upgraded:
            self.on_lost()

    def shutdown(self) -> None:
        """Close the connection, because uvicorn is stopping."""
        if self._is_upgraded:
            self.close(1012, "service restart")
        else:
            self.abort()

    # Handshake.

    def handshake(self, head: bytes) -> None:
        """Answer a request head that asks for a WebSocket."""
        try:
            answer, self._extension = handshake.answer(head, self.path, self.subprotocol, self.admit)
        except HandshakeRejected as rejected:
            self._reject(rejected)
        else:
            self._is_upgraded = True
            self.on_open()
            self.write(answer)

    def peer_address(self) -> str:
        """Return the address of the TCP peer, or LOCAL."""
        name = self.transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else LOCAL

    def _reject(self, rejected: HandshakeRejected) -> None:
        self.transport.write(rejected.response())
        self.transport.close()

    # Frames in.

    def _open_parser(self) -> frames.FrameParser:
        """Return the parser. It is dropped between frames, because it needs more memory than the rest of the socket."""
        if self._parser is None:
            self._parser = frames.FrameParser(self.frame_limit(), self._extension)
        return self._parser

    def _receive(self, data: bytes) -> None:
        parser = self._open_parser()
        parser.receive_data(data)
        for frame in cast("list[Frame]", parser.events_received()):
            if frame.opcode is Opcode.CLOSE:
                if not self.is_closing and parser.close_rcvd is not None:
                    self.close_code = parser.close_rcvd.code
            elif not self.is_closing:
                self._frame(parser, frame)
        # What is left besides pongs ends the connection. Every earlier frame has been answered.
        if parser.writes:
            self._write_replies(parser)
        if parser.is_between and parser.state is State.OPEN and not self.is_closing:
            self._parser = None

    def _frame(self, parser: frames.FrameParser, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            message = parser.assemble(frame)
            if message is not None:
                self._message(*message)
            elif len(parser.parts) >= self.fragments_max:
                self.close(CloseCode.LIMIT, "too many fragments")
            else:
                self._count_control()
        elif self._count_control() and frame.opcode is Opcode.PING:
            self.transport.write(parser.writes.pop(0))  # pongs are in the order of the pings

    def _count_control(self) -> bool:
        """Return whether a control frame or fragment is within the rate limit; if not, close the connection."""
        if self.control():
            return True
        self.close(CloseCode.LIMIT, "too many frames")
        return False

    def _message(self, data: bytes, is_text: bool) -> None:
        if is_text:
            try:
                data.decode()
            except UnicodeDecodeError:
                self.close(1007, "text is not UTF-8")
                return
        self.received(data, is_text)

    def _write_replies(self, parser: frames.FrameParser) -> None:
        """Write the library's own answers: pongs, the closing handshake, failures."""
        for data in parser.data_to_send():
            if not data:
                self._end(parser)
            elif self.is_closing:
                continue  # nothing may follow our close frame
            elif data[0] != 0x88:  # not a close frame
                self.transport.write(data)
            elif isinstance(parser.parser_exc, PayloadTooBig):
                self.close(CloseCode.TOO_LARGE, "frame too large")
            else:
                self.is_closing, self.direct_fd = True, -1
                if parser.parser_exc is not None and parser.close_sent is not None:
                    self.close_code = parser.close_sent.code
                self.transport.write(data)
                self.on_closing()

    def _end(self, parser: frames.FrameParser) -> None:
        """End the connection: at once after a closing handshake; after a failure, once the peer has read the close."""
        self.direct_fd = -1
        if parser.close_rcvd is not None or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            # A close with unread data resets the connection, and the close frame is lost. So only our half is closed,
            # and further data is dropped unparsed; `on_closing` limits the time.
            self.transport.write_eof()

    # Frames out.

    def _enable_direct_write(self) -> None:
        """Allow frames to be written directly to the descriptor, which halves the cost of a write.

        This is allowed only without TLS, and only while the transport's buffer is empty, to keep frames in order.
        `pause_writing` ends it; with a buffer limit of 0 that happens at the first buffered byte. uvloop and asyncio
        close the descriptor after `connection_lost`, so its number is not reused while the socket uses it.
        """
        if os.name != "posix" or self.is_closing or self.transport.is_closing():
            return
        if self.transport.get_extra_info("sslcontext") is None:
            self.direct_fd = self.transport.get_extra_info("socket").fileno()

    def write(self, data: bytes) -> None:
        """Send one whole, encoded frame."""
        if self._cork is not None:
            self._cork.append(data)
        elif self.direct_fd >= 0:
            try:
                sent = write_fd(self.direct_fd, data)
            except OSError:
                sent = 0
            if sent < len(data):
                self.write_remainder(data, sent)
        elif not self.is_closing:
            self.transport.write(data)

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Pass the unsent rest to the transport, which also detects a lost connection."""
        self.transport.write(data[sent:])

    def uncork(self) -> None:
        """Write everything that was collected while corked, in one call."""
        cork, self._cork = self._cork, None
        if cork:
            self.write(cork[0] if len(cork) == 1 else b"".join(cork))

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; the connection ends when the peer answers, disconnects, or is late."""
        if self.is_closing:
            return
        self.uncork()
        self.is_closing, self.close_code, self.direct_fd = True, code, -1
        self.transport.write(frames.close(code, reason))
        if self._is_upgraded:
            parser = self._open_parser()
            if parser.begin_close(code if code in _FAILURES else None):
                self._write_replies(parser)
        self.on_closing()

    def abort(self, code: int | None = None) -> None:
        """Drop the connection without a close frame; `code`, if given, is counted as the reason."""
        self.direct_fd = -1
        self.close_code = code or self.close_code
        self.transport.abort()
