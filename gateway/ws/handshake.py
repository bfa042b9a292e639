"""The server's side of the opening handshake (RFC 6455 section 4.2): a request head in, the 101 answer out.

`websockets.server.ServerProtocol` does the same, but its request and header objects take about as long as the rest of
opening a socket.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import orjson
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.headers import parse_extension, parse_subprotocol

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.ws.connection import WebSocket

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)

Headers = dict[bytes, bytes]
"""The headers of a request: names in lower case, values of the same name joined by commas."""


class HandshakeRejected(GatewayError):
    """The handshake is answered with an HTTP status instead of an upgrade."""

    def __init__(self, status: int, code: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers

    def response(self) -> bytes:
        """Return the complete HTTP answer: a problem document (RFC 9457), and `Connection: close`."""
        title = HTTPStatus(self.status).phrase
        about = {"status": self.status, "code": self.code, "detail": self.detail}
        body = orjson.dumps({"type": "about:blank", "title": title, **about})
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        head = (
            f"HTTP/1.1 {self.status} {title}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
        )
        return head.encode() + body


NO_ROOM = {
    "address": HandshakeRejected(
        429, "too_many_connections", "too many connections from this address", (("Retry-After", "5"),)
    ),
    "connections_max": HandshakeRejected(503, "busy", "no more connections here, try again", (("Retry-After", "2"),)),
}
"""Answers to a rejected new connection, by the limit that is reached."""


class Acceptor(Protocol):
    """The server's part in a new connection: the limits, and the first bytes."""

    def connection_opened(self, socket: WebSocket, peer: str) -> str:
        """Return an empty string, or the limit that this connection exceeds."""

    def first_bytes_received(self, socket: WebSocket, transport: asyncio.Transport, data: bytes) -> None:
        """Pass an opening handshake to the socket, or give its transport to another protocol."""

    def hello_awaited(self, socket: WebSocket) -> None:
        """Record that the client's hello is expected next."""

    def connection_settled(self, socket: WebSocket) -> None:
        """Stop counting the connection. A second call does nothing."""


def answer(
    head: bytes, path: bytes, subprotocol: str | None, admit: Callable[[Headers], None]
) -> tuple[bytes, PerMessageDeflate | None]:
    """Return the 101 answer to a request head, and the negotiated compression.

    Args:
        head: a whole request head that asks for a WebSocket.
        path: the only path that is served.
        subprotocol: the subprotocol that the client must offer; None: any.
        admit: is called with the headers of a valid handshake, and raises if the client may not connect.

    Raises:
        HandshakeRejected: the request is not a valid opening handshake, or not admitted.
    """
    method, target, headers = _parse(head)
    if target.partition(b"?")[0] != path:
        raise HandshakeRejected(404, "not_found", "WebSockets are served at /v1/connect")
    if method != b"GET":
        raise HandshakeRejected(405, "method_not_allowed", "an opening handshake is a GET", (("Allow", "GET"),))
    if headers.get(b"sec-websocket-version") != b"13":
        raise HandshakeRejected(426, "version", "the WebSocket version must be 13", (("Sec-WebSocket-Version", "13"),))
    if b"host" not in headers:
        raise HandshakeRejected(400, "bad_handshake", "the Host header is missing")
    if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
        raise HandshakeRejected(400, "bad_handshake", "an opening handshake has no body")
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Sec-WebSocket-Accept: %b\r\n" % _accept(headers.get(b"sec-websocket-key", b"")),
    ]
    if subprotocol is not None:
        if not _offers(headers.get(b"sec-websocket-protocol", b""), subprotocol):
            raise HandshakeRejected(400, "subprotocol", f"the subprotocol must be {subprotocol}")
        lines.append(b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode())
    admit(headers)
    extension = None
    if (offered := headers.get(b"sec-websocket-extensions")) is not None:
        accepted, extension = _negotiate(offered)
        if accepted:
            lines.append(b"Sec-WebSocket-Extensions: %b\r\n" % accepted)
    lines.append(b"\r\n")
    return b"".join(lines), extension


def _parse(head: bytes) -> tuple[bytes, bytes, Headers]:
    """Return method, target and headers."""
    lines = head.split(b"\r\n")
    method, target, _ = lines[0].split(b" ", 2)
    headers: Headers = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name == b"host" and name in headers:
            raise HandshakeRejected(400, "bad_handshake", "there is more than one Host header")
        headers[name] = headers[name] + b", " + value if name in headers else value
    return method, target, headers


def _accept(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept value for a client's key."""
    try:
        is_key = len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:
        is_key = False
    if not is_key:
        raise HandshakeRejected(400, "bad_handshake", "Sec-WebSocket-Key must be 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _offers(header: bytes, wanted: str) -> bool:
    """Return whether the subprotocol header offers `wanted`."""
    try:
        return header == wanted.encode() or wanted in parse_subprotocol(header.decode("latin-1"))
    except InvalidHeader:
        return False


def _negotiate(offered: bytes) -> tuple[bytes, PerMessageDeflate | None]:
    """Return the answer's extension header, and the extension: only compression whose frames can be shared."""
    try:
        offers = parse_extension(offered.decode("latin-1"))
    except InvalidHeader:
        raise HandshakeRejected(400, "bad_handshake", "Sec-WebSocket-Extensions is malformed") from None
    for name, parameters in offers:
        # Shared frames use the full window. A client that requests a smaller one gets no compression.
        if name != "permessage-deflate" or any(
            key == "server_max_window_bits" and value != "15" for key, value in parameters
        ):
            continue
        try:
            agreed, extension = _DEFLATE.process_request_params(parameters, [])
        except NegotiationError:
            continue
        assert isinstance(extension, PerMessageDeflate)
        text = "; ".join([name, *(key if value is None else f"{key}={value}" for key, value in agreed)])
        return text.encode(), extension
    return b"", None
