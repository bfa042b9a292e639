"""An opening handshake is answered as RFC 6455 section 4.2 says, and anything else with the status that fits."""

from __future__ import annotations

import json

import pytest

from gateway.ws.handshake import HandshakeRejected, Headers, answer

HEAD = (
    b"GET /v1/connect?v=1 HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: other, planwire.v1\r\n\r\n"
)
"""With the key of RFC 6455 section 1.3."""


def answered(head: bytes, admitted: list[Headers] | None = None) -> bytes:
    taken = [] if admitted is None else admitted
    return answer(head, b"/v1/connect", "planwire.v1", taken.append)[0]


def test_a_proper_handshake_is_accepted_with_the_key_of_the_rfc() -> None:
    admitted: list[Headers] = []
    lines = answered(HEAD, admitted).split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert b"Sec-WebSocket-Protocol: planwire.v1" in lines
    assert lines[-2:] == [b"", b""]
    assert admitted[0][b"host"] == b"here"


@pytest.mark.parametrize(
    ("old", "new", "status", "code"),
    [
        (b"/v1/connect?v=1", b"/v1/other", 404, "not_found"),
        (b"GET ", b"POST ", 405, "method_not_allowed"),
        (b"Version: 13", b"Version: 8", 426, "version"),
        (b"Host: here\r\n", b"", 400, "bad_handshake"),
        (b"Host: here\r\n", b"Host: here\r\nHost: there\r\n", 400, "bad_handshake"),
        (b"Host: here\r\n", b"Host: here\r\nContent-Length: 3\r\n", 400, "bad_handshake"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ=", 400, "bad_handshake"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"not base64", 400, "bad_handshake"),
        (b", planwire.v1", b"", 400, "subprotocol"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: ;\r\n\r\n", 400, "bad_handshake"),
    ],
)
def test_anything_else_is_rejected_with_a_problem_document(old: bytes, new: bytes, status: int, code: str) -> None:
    with pytest.raises(HandshakeRejected) as rejected:
        answered(HEAD.replace(old, new))
    head, _, body = rejected.value.response().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert (json.loads(body)["status"], json.loads(body)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (b"permessage-deflate; client_max_window_bits", True),
        (b"permessage-deflate; server_max_window_bits=15", True),
        (b"permessage-deflate; server_max_window_bits=10", False),
        (b"permessage-deflate; server_max_window_bits=10, permessage-deflate", True),
        (b"x-webkit-deflate-frame", False),
    ],
)
def test_only_compression_whose_bytes_can_be_shared_is_agreed_on(offered: bytes, agreed: bool) -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: " + offered + b"\r\n\r\n")
    answer_bytes, extension = answer(head, b"/v1/connect", "planwire.v1", lambda headers: None)
    assert (extension is not None) is agreed
    assert (b"server_no_context_takeover; client_no_context_takeover" in answer_bytes) is agreed
