"""The protocols of a new connection: its first bytes decide whether it is a WebSocket or HTTP.

Every connection starts with the protocol of a socket, and keeps it if its first bytes are a complete opening handshake
in plain form. Starting with uvicorn's HTTP protocol instead would create a parser and a request only to discard them,
at a fifth of the cost of connecting. Changing the protocol of a transport also removes it from epoll and adds it again.
All other first bytes go to `LimitedHttpProtocol`, which limits request heads and the time of each step of a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.node import Node
from gateway.server.connections import HttpConnections, Wait
from gateway.ws.connection import WebSocket
from gateway.ws.handshake import HandshakeRejected

HEAD_MAX_BYTES = 16_384
"""Maximum size of request line and headers together; more is answered 431."""

_HANDSHAKE = re.compile(rb"GET /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade: *websocket\r\n", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection: *(?:[a-z-]+, *)*upgrade(?:, *[a-z-]+)*\r\n", re.IGNORECASE)


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on the size of request heads and on the time of each step of a request."""

    def __init__(self, *uvicorns: Any, connections: HttpConnections, make_socket: Callable[[], WebSocket]) -> None:
        """Make the protocol of a registered connection.

        Args:
            uvicorns: the arguments of uvicorn's protocol.
            connections: the registry that has the connection.
            make_socket: makes the protocol that takes over after an upgrade.
        """
        super().__init__(*uvicorns)
        self._connections = connections
        self._make_socket = make_socket
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._is_all_head = False
        self._fault = ""
        self._served: RequestResponseCycle | None = None

    def connection_opened(self, transport: asyncio.Transport) -> None:
        """Set the transport.

        Like uvicorn's `connection_made`, but without the local address. It is not used, and getting it costs a system
        call and a socket object per connection.
        """
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.client = get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry, and mark its requests as disconnected."""
        self._connections.remove(self)
        self._tell_served()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection at once and discard unsent data."""
        self._tell_served()
        self.transport.abort()

    def _tell_served(self) -> None:
        """Mark the request being served as disconnected, so that its handler writes nothing more.

        uvicorn marks only the newest of several pipelined requests. It also does so one turn of the event loop after
        the transport has been closed, and a write in between raises.
        """
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    # What is expected from the client next.

    def _note_wait(self) -> None:
        is_answered = self._is_idle()
        wait: Wait | None
        if self.flow.write_paused:
            wait = Wait.READ
        elif self._in_head:
            wait = Wait.HEAD
        elif self._in_body:
            wait = Wait.REST if is_answered else Wait.BODY
        else:
            wait = Wait.NEXT if is_answered else None
        self._connections.waits(self, wait)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._note_wait()

    def resume_writing(self) -> None:
        """Continue after the client has read."""
        super().resume_writing()
        self._note_wait()

    def on_response_complete(self) -> None:
        """Wait for the rest of the request, or for the next one."""
        super().on_response_complete()
        self._note_wait()

    def data_received(self, data: bytes) -> None:
        """Parse the data, limit the size of heads, and pass the data after an upgrade to the WebSocket."""
        self._unset_keepalive_if_required()
        if not self._in_body and self._is_idle():
            self._in_head = True
        while data and not self.transport.is_closing():
            size = HEAD_MAX_BYTES - self._head_bytes
            piece, data = data[:size], data[size:]
            self._is_all_head = not self._in_body
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data = piece[upgrade.args[0] :] + data
                if self._should_upgrade():
                    self._upgrade(data)
                    return
                if self.parser.get_method() == b"CONNECT":
                    self._refuse_head(400, "bad_request", "this is no proxy: CONNECT is not served")
                    return
                data = self._without_upgrade() + data
            except httptools.HttpParserError:
                self._refuse_head(400, "bad_request", self._fault or "this is no HTTP request")
            else:
                if self._is_all_head:
                    self._head_bytes += len(piece)
                    if self._head_bytes >= HEAD_MAX_BYTES:
                        detail = f"request line and headers may have {HEAD_MAX_BYTES - 1} bytes together"
                        self._refuse_head(431, "head_too_large", detail)
        self._note_wait()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _upgrade(self, rest: bytes) -> None:
        if not self._is_idle():
            # The response in progress would be mixed with the frames.
            self.transport.close()
            return
        transport = self.transport
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        socket = self._make_socket()
        self.connections.discard(self)
        self._connections.replace(self, socket)
        socket.take_over(transport)
        transport.set_protocol(socket)
        socket.handshake(b"".join([*head, b"\r\n"]))
        if rest and not transport.is_closing():
            socket.data_received(rest)
        # Break the reference cycle with the parser, so that both are freed now and not by the garbage collector.
        self.parser = None  # type: ignore[assignment]

    def _without_upgrade(self) -> bytes:
        """Return the head just read without its upgrade headers, and replace the parser to read it again.

        An upgrade to anything but WebSocket is declined by answering in HTTP/1.1 (RFC 9110 section 7.8). The parser
        treats everything after such a head as the other protocol, even a body, so the request has to be read again.
        Java's HTTP client requests an upgrade to h2c every time.
        """
        method, version = self.parser.get_method(), self.scope["http_version"].encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)  # the old one accepts no data after a "close"
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # uvicorn sets it, too
        return b"\r\n".join([*lines, b"", b""])

    def _refuse_head(self, status: int, code: str, detail: str) -> None:
        if self._is_idle():  # otherwise it would end up inside another response
            self.transport.write(HandshakeRejected(status, code, detail).response())
        self.transport.close()

    def on_message_begin(self) -> None:
        """Start a new head."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Check the head, and start the body.

        Raises:
            ValueError: the HTTP version is not supported, or there is not exactly one Host header.
        """
        self._head_bytes = 0
        self._in_head = False
        self._in_body = True
        self._is_all_head = False
        self._fault = self._find_fault()
        if self._fault:
            raise ValueError(self._fault)  # the parser stops and raises HttpParserError
        if self._is_declined():
            self.scope["http_version"] = self.parser.get_http_version()
        else:
            super().on_headers_complete()

    def _find_fault(self) -> str:
        """Return the fault of a head that the parser accepts, or an empty string."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return f"HTTP/{version} is not served here; send HTTP/1.1"
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and version == "1.1"):
            return "an HTTP/1.1 request has one Host header"  # RFC 9112 section 3.2
        return ""

    def on_message_complete(self) -> None:
        """End the request; the next bytes start another head."""
        if not self._is_declined():
            super().on_message_complete()
        self._in_body = False
        self._is_all_head = False

    def _is_declined(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        # An HTTP/1.0 request has no upgrade (RFC 9110 section 7.8).
        return bool(super()._should_upgrade()) and self.parser.get_http_version() == "1.1"


class FirstBytesProtocol:
    """Creates the protocol of each new connection of a server, and serves as its `Acceptor`."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._uvicorns = (config, server_state, app_state)

    @cached_property
    def connections(self) -> HttpConnections:
        """All HTTP connections of the server. Use it only after the app has started: the app sets the limits."""
        node: Node = self._uvicorns[2]["node"]
        return HttpConnections(node.settings, node.metrics)

    def __call__(self, **_: object) -> WebSocket:
        """Return the protocol of a new connection."""
        socket_class = cast("type[WebSocket]", self._uvicorns[0].ws_protocol_class)
        return socket_class(*self._uvicorns[1:], self)

    def connection_opened(self, socket: WebSocket, peer: str) -> str:
        """Register a connection. Return an empty string; if there is no room, the limit."""
        return self.connections.add(socket, peer)

    def first_bytes_received(self, socket: WebSocket, transport: asyncio.Transport, data: bytes) -> None:
        """Pass an opening handshake to the socket, and any other first bytes to the HTTP protocol."""
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end < HEAD_MAX_BYTES and is_handshake(data[:end]):
            socket.handshake(data[:end])
            if end < len(data) and not transport.is_closing():
                socket.data_received(data[end:])
            return
        self._uvicorns[1].connections.discard(socket)
        http = LimitedHttpProtocol(*self._uvicorns, connections=self.connections, make_socket=self)
        http.connection_opened(transport)
        self.connections.replace(socket, http)
        transport.set_protocol(http)
        http.data_received(data)

    def hello_awaited(self, socket: WebSocket) -> None:
        """Set that the client must send hello next."""
        self.connections.waits(socket, Wait.HELLO)

    def connection_settled(self, socket: WebSocket) -> None:
        """Remove a connection that has ended, or whose socket has received its hello."""
        self.connections.remove(socket)


def is_handshake(head: bytes) -> bool:
    """Return whether a complete request head is an opening handshake in the usual form (RFC 6455 section 4.1).

    The socket checks a handshake of this form in detail. Handshakes of any other form go through the HTTP parser.
    """
    return bool(_HANDSHAKE.fullmatch(head) and _UPGRADE.search(head) and _CONNECTION.search(head))
