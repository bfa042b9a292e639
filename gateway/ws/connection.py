"""The fast lane: one object per socket, no task and no queue, behind uvicorn's `ws=` seam.

`WebSocket` is RFC 6455 on a transport: handshake, inbound frames, close, backpressure. `SessionSocket` puts a session
behind it. What `gateway.server` serves is a socket from the first byte: its porch decides whether it stays one. Where
uvicorn's HTTP protocol has read the head, `take_over` and `shake_hands` follow.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import os
import time
from collections.abc import Generator, Iterable
from http import HTTPStatus
from os import write as write_fd
from typing import TYPE_CHECKING, Any, ClassVar, cast

import orjson
import structlog
from websockets.exceptions import InvalidHeader, NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_extension, parse_subprotocol
from websockets.protocol import Protocol, Side, State
from websockets.streams import StreamReader

from gateway.hub.pending import PendingTopics
from gateway.server.connections import Wait
from gateway.ws import frames, protocol, session
from gateway.ws.session import Session
from planwire_client.core.frames import SUBPROTOCOL, CloseCode

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from gateway.auth.revocations import Revocations
    from gateway.hub.topic import Subscription
    from gateway.node import Node
    from gateway.server.server import FirstBytesProtocol

log = structlog.get_logger()

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

FRAGMENTS_MAX = 256
"""Frames one message may come in. What it may weigh is bounded apart from that."""

UNKNOWN_STATE_BYTES = 8192
"""Assumed size of a state that is not in memory, for the limit on `subscribe`."""

SLICE_BYTES = 4096
"""How much of a read is parsed before what it holds is looked at: a flood in one read is cut off early."""

_SILENT = logging.Logger("planwire.websocket", logging.CRITICAL)
_CLOSE_SENT = Close(1000, "")
_CLOSE_HEAD = 0x88
_FAILURES = frozenset((1007, CloseCode.PROTOCOL_ERROR, CloseCode.NO_HELLO, CloseCode.TOO_LARGE, CloseCode.LIMIT))
"""Close codes after which nothing from the peer counts any more."""
_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Refused(Exception):
    """A handshake that is answered with an HTTP status instead of an upgrade."""

    def __init__(self, status: int, code: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


_NO_ROOM = {
    "address": Refused(429, "too_many_connections", "too many connections from this address", (("Retry-After", "5"),)),
    "connections_max": Refused(503, "busy", "no more connections here, try again", (("Retry-After", "2"),)),
}
"""Answer to a new connection without room, by the limit that is reached."""


def refusal(status: int, code: str, detail: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return a complete HTTP answer with a problem document (RFC 9457) and `Connection: close`."""
    title = HTTPStatus(status).phrase
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail})
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode() + body


def _offers(header: bytes, wanted: str) -> bool:
    """Whether the subprotocol header offers `wanted`."""
    try:
        return header == wanted.encode() or wanted in parse_subprotocol(header.decode("latin-1"))
    except InvalidHeader:
        return False


class _StrictReader(StreamReader):
    """The library's reader, which also requires the shortest encoding of a frame's length (RFC 6455 section 5.2)."""

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


class _Inbound(Protocol):
    """The library's parser, but for a close frame between the fragments of a message, which it takes for a failure.

    Attributes:
        is_between: the last frame is whole, its message too, and nothing of another has come.
    """

    __slots__ = ("is_between",)

    def parse(self) -> Generator[None]:
        """Parse frames with the strict reader."""
        self.reader = _StrictReader()
        yield from super().parse()

    def recv_frame(self, frame: Frame) -> None:
        """Take one frame; a close ends an unfinished message (RFC 6455 sections 5.4 and 5.5: it may come between)."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)
        self.is_between = not self.reader.buffer and self.current_size is None


class WebSocket(asyncio.Protocol):
    """RFC 6455 on one transport. A subclass says who may connect and what a message means.

    Attributes:
        direct_fd: the descriptor while a frame may go straight to it, else -1; see `_enable_direct_write`.
    """

    __slots__ = (
        "_cork",
        "_extension",
        "_first_bytes",
        "_inbound",
        "_is_upgraded",
        "_parts",
        "_parts_text",
        "close_code",
        "direct_fd",
        "is_closing",
        "server_state",
        "transport",
    )

    path: ClassVar[bytes] = b"/v1/connect"
    subprotocol: ClassVar[str | None] = SUBPROTOCOL
    fragments_max: ClassVar[int] = FRAGMENTS_MAX

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], first_bytes: FirstBytesProtocol
    ) -> None:
        """Take uvicorn's objects. `porch` decides what to do with the first bytes."""
        self.server_state = server_state
        self._first_bytes = first_bytes
        self.transport: asyncio.Transport | None = None
        self._is_upgraded = False
        self._inbound: _Inbound | None = None
        self._extension: PerMessageDeflate | None = None
        self._parts: list[bytes] | None = None
        self._parts_text = False
        self.is_closing = False
        self.close_code = 1006
        self._cork: list[bytes] | None = None
        self.direct_fd = -1

    # What a subclass says.

    def admit(self, headers: dict[bytes, bytes], peer: str) -> None:
        """Return when a client with these headers may connect.

        Raises:
            Refused: it may not.
        """

    def frame_limit(self) -> int:
        """Return the most bytes a message may have, compressed or not."""
        return 65_536

    def on_open(self) -> None:
        """The handshake is done, but for its answer, which is written next."""
        self.settle()

    def received(self, data: bytes, is_text: bool) -> None:
        """A whole message has come; text is valid UTF-8."""

    def control(self) -> bool:
        """A ping, a pong or a part of a message has come; return whether that is within the rate."""
        return True

    def on_lost(self) -> None:
        """The connection is gone. Called once, only after `opened`."""

    def settle(self) -> None:
        """Stop counting as an HTTP connection; the limits on sockets apply from now on."""
        self._first_bytes.connections.remove(self)

    # asyncio.Protocol, as uvicorn hands over.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a new connection, or refuse it if there is no room. The request head follows as the first data."""
        # uvloop's transports do not derive from asyncio's classes.
        self.take_over(cast(asyncio.Transport, transport))
        reached = self._first_bytes.connections.add(self, self._peer())
        if reached:
            self._refuse(_NO_ROOM[reached])

    def take_over(self, transport: asyncio.Transport) -> None:
        """Take a connection whose request head has been read."""
        self.transport = transport
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Take the request head, then frames."""
        if self._inbound is None:
            if not self._is_upgraded:
                assert self.transport is not None
                if not self.transport.is_closing():
                    self._first_bytes.first_bytes_received(self, self.transport, data)
                return
            if not self.is_closing and self._receive_whole(data):
                return
        if len(data) <= SLICE_BYTES:
            self._receive(data)
            return
        for start in range(0, len(data), SLICE_BYTES):
            self._receive(data[start : start + SLICE_BYTES])

    def _receive_whole(self, data: bytes) -> bool:
        """Return whether `data` was the one frame that nearly every read is, and done: a short text, or an empty pong.

        Whatever else it is, wrong or merely rare, is the parser's.
        """
        payload = frames.whole_text(data, self.frame_limit())
        if payload is not None:
            self._message(payload, True)
            return True
        if data[:2] != frames.EMPTY_PONG or len(data) != 6:
            return False
        if not self.control():
            self.close(CloseCode.LIMIT, "too many frames")
        return True

    def _parser(self) -> _Inbound:
        """Return the parser of this socket's frames. Between frames there is none: it outweighs all the rest."""
        inbound = self._inbound
        if inbound is None:
            inbound = _Inbound(Side.SERVER, state=State.OPEN, max_size=self.frame_limit(), logger=_SILENT)
            if self._extension is not None:
                inbound.extensions = [self._extension]
            self._inbound = inbound
        return inbound

    def _receive(self, data: bytes) -> None:
        inbound = self._parser()
        inbound.is_between = False
        inbound.receive_data(data)
        for event in inbound.events_received():
            if not self.is_closing or event.opcode is Opcode.CLOSE:  # type: ignore[union-attr]
                self._event(event)
        # What is left besides pongs ends the connection: whatever came before has been answered by now.
        if inbound.writes:
            self._write_replies(inbound)
        if inbound.is_between and inbound.state is State.OPEN and not self.is_closing:
            self._inbound = None

    def eof_received(self) -> None:
        """Let the transport close: a half-open client cannot be told anything."""
        self.direct_fd = -1

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the socket."""
        self.direct_fd = -1
        self.server_state.connections.discard(self)
        self.settle()
        if self._is_upgraded:
            self.on_lost()

    def shutdown(self) -> None:
        """Close for uvicorn, which is stopping."""
        if not self._is_upgraded:
            self.abort()
        else:
            self.close(1012, "service restart")

    # Handshake.

    def handshake(self, head: bytes) -> None:
        """Answer a request head that asks for a WebSocket."""
        try:
            answer = self._answer(head)
        except Refused as refused:
            self._refuse(refused)
            return
        self._is_upgraded = True
        self.on_open()
        self.write(answer)

    def _answer(self, head: bytes) -> bytes:
        """Return the 101 response to a request head (RFC 6455 section 4.2).

        Raises:
            Refused: the request is not a proper opening handshake, or not admitted.
        """
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].split(b" ", 2)
        headers: dict[bytes, bytes] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"host" and name in headers:
                raise Refused(400, "bad_handshake", "there is more than one Host header")
            headers[name] = headers[name] + b", " + value if name in headers else value
        if target.partition(b"?")[0] != self.path:
            raise Refused(404, "not_found", "WebSockets are served at /v1/connect")
        if method != b"GET":
            raise Refused(405, "method_not_allowed", "an opening handshake is a GET", (("Allow", "GET"),))
        if headers.get(b"sec-websocket-version") != b"13":
            raise Refused(426, "version", "the WebSocket version must be 13", (("Sec-WebSocket-Version", "13"),))
        if b"host" not in headers:
            raise Refused(400, "bad_handshake", "the Host header is missing")
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            raise Refused(400, "bad_handshake", "an opening handshake has no body")
        key = headers.get(b"sec-websocket-key", b"")
        try:
            is_key = len(binascii.a2b_base64(key, strict_mode=True)) == 16
        except ValueError:
            is_key = False
        if not is_key:
            raise Refused(400, "bad_handshake", "Sec-WebSocket-Key must be 16 bytes in base64")
        answer = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()),
            b"\r\n",
        ]
        if self.subprotocol is not None:
            if not _offers(headers.get(b"sec-websocket-protocol", b""), self.subprotocol):
                raise Refused(400, "subprotocol", f"the subprotocol must be {self.subprotocol}")
            answer.append(b"Sec-WebSocket-Protocol: %b\r\n" % self.subprotocol.encode())
        self.admit(headers, self._peer())
        offered = headers.get(b"sec-websocket-extensions")
        if offered is not None and (accepted := self._negotiate(offered)):
            answer.append(b"Sec-WebSocket-Extensions: %b\r\n" % accepted)
        answer.append(b"\r\n")
        return b"".join(answer)

    def _peer(self) -> str:
        assert self.transport is not None
        name = self.transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else "local"

    def _negotiate(self, offered: bytes) -> bytes:
        """Return the extension header to answer with, or nothing: only compression whose bytes can be shared."""
        try:
            offers = parse_extension(offered.decode("latin-1"))
        except InvalidHeader:
            raise Refused(400, "bad_handshake", "Sec-WebSocket-Extensions is malformed") from None
        for name, parameters in offers:
            # The shared bytes are made with the full window; a client that asks for a smaller one gets none.
            if name != "permessage-deflate" or any(
                key == "server_max_window_bits" and value != "15" for key, value in parameters
            ):
                continue
            try:
                answer, extension = _DEFLATE.process_request_params(parameters, [])
            except NegotiationError:
                continue
            assert isinstance(extension, PerMessageDeflate)
            self._extension = extension
            return "; ".join([name, *(key if value is None else f"{key}={value}" for key, value in answer)]).encode()
        return b""

    def _refuse(self, refused: Refused) -> None:
        assert self.transport is not None
        self.transport.write(refusal(refused.status, refused.code, refused.detail, refused.headers))
        self.transport.close()

    # Frames in.

    def _write_replies(self, inbound: Protocol) -> None:
        """Write what the library answers by itself: pongs, the closing handshake, failures."""
        assert self.transport is not None
        for data in inbound.data_to_send():
            if not data:
                self._end(inbound)
            elif self.is_closing:
                continue  # our close frame is out, and nothing may follow it
            elif data[0] != _CLOSE_HEAD:
                self.transport.write(data)
            elif isinstance(inbound.parser_exc, PayloadTooBig):
                self.close(CloseCode.TOO_LARGE, "frame too large")
            else:
                self.is_closing, self.direct_fd = True, -1
                if inbound.parser_exc is not None and inbound.close_sent is not None:
                    self.close_code = inbound.close_sent.code
                self.transport.write(data)
                self.closing()

    def _end(self, inbound: Protocol) -> None:
        """End the connection: at once after a closing handshake; after a failure, when the peer has heard of it."""
        assert self.transport is not None
        self.direct_fd = -1
        if inbound.close_rcvd is not None or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            # Closing with something unread resets the connection, and the close frame is lost with it. So only our
            # half is closed, and what still comes is dropped unparsed; `closing` sees to it that this has an end.
            self.transport.write_eof()

    def _event(self, event: Any) -> None:
        opcode, data = event.opcode, event.data
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if event.fin:
                self._message(bytes(data), opcode is Opcode.TEXT)
                return
            self._parts, self._parts_text = [bytes(data)], opcode is Opcode.TEXT
        elif opcode is Opcode.CONT:
            assert self._parts is not None
            self._parts.append(bytes(data))
            if event.fin:
                parts, self._parts = self._parts, None
                self._message(b"".join(parts), self._parts_text)
                return
            if len(self._parts) >= self.fragments_max:
                self.close(CloseCode.LIMIT, "too many fragments")
                return
        elif opcode is Opcode.CLOSE:
            if not self.is_closing and self._inbound is not None and self._inbound.close_rcvd is not None:
                self.close_code = self._inbound.close_rcvd.code
            return
        if not self.control():
            self.close(CloseCode.LIMIT, "too many frames")
        elif opcode is Opcode.PING:
            assert self.transport is not None
            assert self._inbound is not None
            self.transport.write(self._inbound.writes.pop(0))  # the pongs stand there in the order of the pings

    def _message(self, data: bytes, is_text: bool) -> None:
        if is_text:
            try:
                data.decode()
            except UnicodeDecodeError:
                self.close(1007, "text is not UTF-8")
                return
        self.received(data, is_text)

    # Frames out.

    def _enable_direct_write(self) -> None:
        """Let frames go straight to the descriptor: a transport's `write` costs as much again as it takes to get there.

        Only while nothing waits in the transport, or frames would overtake each other: `pause_writing` ends it, and
        with a limit of 0 that comes with the first byte that waits. Only where the transport adds nothing, so not under
        TLS. And never beyond the connection: uvloop and asyncio both close the descriptor after `connection_lost` and
        not before, so its number is not yet anybody else's while it stands here.
        """
        transport = self.transport
        assert transport is not None
        if os.name != "posix" or self.is_closing or transport.is_closing():
            return
        if transport.get_extra_info("sslcontext") is None:
            self.direct_fd = transport.get_extra_info("socket").fileno()

    def write(self, data: bytes) -> None:
        """Send one whole frame, encoded before."""
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
            assert self.transport is not None
            self.transport.write(data)

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Have the transport send what the system did not take, or find out that the connection is gone."""
        assert self.transport is not None
        self.transport.write(data[sent:])

    def uncork(self) -> None:
        """Write in one go what was written while corked."""
        cork, self._cork = self._cork, None
        if cork:
            self.write(cork[0] if len(cork) == 1 else b"".join(cork))

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; the connection ends when the peer answers it, hangs up, or is late."""
        if self.is_closing or self.transport is None:
            return
        self.uncork()
        self.is_closing, self.close_code, self.direct_fd = True, code, -1
        self.transport.write(frames.close(code, reason))
        inbound = self._parser() if self._is_upgraded else None
        if inbound is not None and inbound.state is State.OPEN:
            inbound.state = State.CLOSING  # the peer's close frame is an answer now, not to be answered
            inbound.close_sent = _CLOSE_SENT
            if code in _FAILURES:
                inbound.fail(code)  # and no more of what it sends is parsed (RFC 6455 section 7.1.7)
                self._write_replies(inbound)
        self.closing()

    def closing(self) -> None:
        """A close frame was sent: a subclass sees to it that the peer does not take for ever."""

    def abort(self) -> None:
        """Drop the connection without a word."""
        self.direct_fd = -1
        if self.transport is not None:
            self.transport.abort()


class SessionSocket(WebSocket):
    """A session on a socket: carries out what the session asks for, and is served by the hub.

    Attributes:
        pending: slots noted while the transport does not drain; None while it does.
        stalled_at, stalled_bytes: when it last made progress, and how much was waiting then.
        bucket: its place among the deadlines (hello, then token expiry, then the close handshake).
        unheard: heartbeats sent since anything was last heard from it.
    """

    __slots__ = (
        "bucket",
        "deflate",
        "node",
        "opened_at",
        "peer",
        "pending",
        "session",
        "stalled_at",
        "stalled_bytes",
        "unheard",
    )

    session: Session[Subscription]

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], first_bytes: FirstBytesProtocol
    ) -> None:
        super().__init__(config, server_state, app_state, first_bytes)
        self.node: Node = app_state["node"]
        self.pending: PendingTopics[Subscription] | None = None
        self.deflate = False
        self.peer = ""
        self.bucket = 0
        self.unheard = 0
        self.opened_at = 0.0
        self.stalled_at = 0.0
        self.stalled_bytes = 0

    def frame_limit(self) -> int:
        """Return the setting."""
        return self.node.settings.frame_max_bytes

    def admit(self, headers: dict[bytes, bytes], peer: str) -> None:
        """Check the origin and the limits on sockets."""
        self.peer = self.node.registry.admit(headers, peer)

    def on_open(self) -> None:
        """Start the clock for the hello."""
        transport = self.transport
        assert transport is not None
        # What the kernel does not take at once means: not draining. What waits is then slots, not bytes. A TLS
        # transport pauses from the limit on, and at zero would do so with nothing waiting; any other pauses above it.
        transport.set_write_buffer_limits(high=0 if transport.get_extra_info("sslcontext") is None else 1)
        if self.pending is None:
            self._enable_direct_write()
        self.deflate = self._extension is not None
        self.opened_at = time.time()
        self.session = Session(self.node.session_id(), self.node.rules)
        self.node.registry.opened(self)
        self._first_bytes.connections.waits(self, Wait.HELLO)

    def data_received(self, data: bytes) -> None:
        """Note the sign of life."""
        self.unheard = 0
        super().data_received(data)

    def control(self) -> bool:
        """Pings, pongs and the parts of a message count as frames."""
        return self.session.spend(time.time())

    def received(self, data: bytes, is_text: bool) -> None:
        """Carry out what the session makes of one frame."""
        if not is_text:
            self.close(CloseCode.PROTOCOL_ERROR, "frames are text")
            return
        node = self.node
        node.metrics.received += 1
        now = time.time()
        # What one frame causes - a welcome and a dozen snapshots, say - leaves in one system call.
        self._cork = []
        is_greeting = False
        for effect in self.session.receive(data, now, node.hub.fresh):
            match effect:
                case session.Acked(topic, version):
                    node.hub.record_ack(self.session.topics[topic], version)
                case session.Send(data):
                    self.write(frames.text(data, False))
                case session.Accepted(data):
                    self.settle()
                    if not node.registry.greeted(self):
                        break  # refused: no welcome, no topics
                    is_greeting = True
                    self.write(frames.text(data, False))
                case session.Attach(topic, held):
                    if not is_greeting and not self._may_ask_for(topic):
                        self.close(CloseCode.LIMIT, "too_many_states: subscribing asks for too many states")
                        break
                    self._attach(topic, held)
                case session.Detach(topic):
                    node.hub.detach(self.session.topics.pop(topic))
                case session.Nacked(topic, version, reason):
                    node.hub.record_nack(self.session.topics[topic], version, reason)
                case session.ExpectRequested(topic, after, timeout_ms):
                    node.registry.expect(self, topic, after, timeout_ms / 1000)
                case session.Renewed(data):
                    node.registry.renewed(self)
                    self.write(frames.text(data, False))
                    # The rule for acks in it goes for every topic: what was said of single ones is said again.
                    for subscription in self.session.topics.values():
                        if node.hub.has_own_ack_rule(subscription.live):
                            node.hub.send_ack_policy(subscription)
                case session.Close(code, reason):
                    if code == CloseCode.TOKEN:
                        node.metrics.auth_failures[reason] += 1
                    self.close(code, reason)
        self.uncork()

    def _may_ask_for(self, topic: str) -> bool:
        """Return whether a `subscribe` to the topic is within the rate of states."""
        if self.pending is not None:
            return True  # the socket does not drain: nothing is sent now, and later only the newest state
        live = self.node.hub.topic(topic)
        size_bytes = UNKNOWN_STATE_BYTES if live is None or not live.known else len(live.state)
        return self.session.spend_state(size_bytes, time.monotonic())

    def _attach(self, topic: str, held: int) -> None:
        topics = self.session.topics
        if topic in topics:
            self.node.hub.resubscribe(topics[topic], held)
        else:
            topics[topic] = self.node.hub.attach(self, topic, held)

    def pause_writing(self) -> None:
        """The kernel takes no more: from here on only slots are noted."""
        self.direct_fd = -1
        if self.pending is None:
            self.pending = PendingTopics()
            self.node.registry.stalled(self)

    def hold_back(self) -> None:
        """Send nothing until `resume_writing`, as if the transport did not drain, but without the limit on stalls."""
        if self.pending is None:
            self.direct_fd = -1
            self.pending = PendingTopics()

    def resume_writing(self) -> None:
        """All is out: send the newest of whatever was noted."""
        pending, self.pending = self.pending, None
        self._enable_direct_write()
        if pending is None:
            return
        self.node.registry.drained(self)
        # Full again after one of them, the hub only notes the rest, in the new pending set.
        while (subscription := pending.take()) is not None:
            self.node.hub.send_latest(subscription)

    def revoke(self, revocations: Revocations) -> None:
        """Give up what a revocation takes: the whole socket, or single topics."""
        claims = self.session.claims
        if claims is None or self.is_closing:
            return
        if revocations.is_revoked(claims):
            self.write(frames.text(protocol.error("token_revoked", "the token was revoked"), False))
            self.close(CloseCode.TOKEN, "token_revoked")
            return
        for topic in [topic for topic in self.session.topics if revocations.is_revoked(claims, topic)]:
            self.end(topic, "revoked")

    def end(self, topic: str, reason: str) -> None:
        """Leave the topic, and say `gone`."""
        self.node.hub.detach(self.session.topics.pop(topic))
        self.node.metrics.gone += 1
        self.write(frames.text(protocol.gone(topic, reason), False))

    def closing(self) -> None:
        """Give the peer a moment to answer the close."""
        self.node.registry.closing(self)

    def on_lost(self) -> None:
        """Leave every topic."""
        for subscription in self.session.topics.values():
            self.node.hub.detach(subscription)
        self.session.topics.clear()
        self.node.registry.lost(self)

    def buffered_bytes(self) -> int:
        """Return what waits in the transport."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()
