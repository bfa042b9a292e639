"""Decides by a connection's first bytes whether it is a WebSocket or HTTP.

A connection's protocol is a socket from the start. One that sends an opening handshake, whole and in plain form, keeps
it: uvicorn's HTTP object, its parser and the request they make would be thrown away at once, and were a fifth of the
cost of connecting; and a transport that changes its protocol leaves epoll and enters it again. Everything else, wrong
or merely rare, goes to `LimitedHttpProtocol`.
"""

from __future__ import annotations

import asyncio
import re
from functools import cached_property
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from gateway.node import Node
from gateway.server.connections import HttpConnections, Wait
from gateway.server.http_limits import HEAD_MAX_BYTES, LimitedHttpProtocol
from gateway.ws.connection import WebSocket

_HANDSHAKE = re.compile(rb"GET /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade: *websocket\r\n", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection: *(?:[a-z-]+, *)*upgrade(?:, *[a-z-]+)*\r\n", re.IGNORECASE)


class FirstBytesProtocol:
    """Makes the protocol of each new connection of a server, and is its `Acceptor`."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._uvicorns = (config, server_state, app_state)

    @cached_property
    def connections(self) -> HttpConnections:
        """All HTTP connections of the server. First used after the app has started, because the app sets the limits."""
        node: Node = self._uvicorns[2]["node"]
        return HttpConnections(node.settings, node.metrics)

    def __call__(self, **_: object) -> WebSocket:
        """Return the protocol of a new connection."""
        socket_class = cast("type[WebSocket]", self._uvicorns[0].ws_protocol_class)
        return socket_class(*self._uvicorns[1:], self)

    def connection_opened(self, socket: WebSocket, peer: str) -> str:
        """Register a connection; return an empty string, or the limit that leaves no room for it."""
        return self.connections.add(socket, peer)

    def first_bytes_received(self, socket: WebSocket, transport: asyncio.Transport, data: bytes) -> None:
        """Have the socket answer an opening handshake, and the HTTP protocol any other first bytes."""
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end < HEAD_MAX_BYTES and is_handshake(data[:end]):
            socket.handshake(data[:end])
            if end < len(data) and not transport.is_closing():
                socket.data_received(data[end:])
            return
        self._uvicorns[1].connections.discard(socket)
        http = LimitedHttpProtocol(*self._uvicorns)
        http.connection_opened(transport, self.connections, self)
        self.connections.replace(socket, http)
        transport.set_protocol(http)
        http.data_received(data)

    def hello_awaited(self, socket: WebSocket) -> None:
        """Note that the client has to say hello next."""
        self.connections.waits(socket, Wait.HELLO)

    def connection_settled(self, socket: WebSocket) -> None:
        """Remove a connection that has ended, or whose socket has received its hello."""
        self.connections.remove(socket)


def is_handshake(head: bytes) -> bool:
    """Return whether a whole request head is an opening handshake in the form that clients send (RFC 6455 section 4.1).

    What is wrong with one of that form is found by the socket. Any other form is not refused: it is parsed in full.
    """
    return bool(_HANDSHAKE.fullmatch(head) and _UPGRADE.search(head) and _CONNECTION.search(head))
