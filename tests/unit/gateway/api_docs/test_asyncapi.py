"""The protocol's description is in step with the code that speaks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.api_docs import asyncapi
from gateway.ws import protocol

ROOT = Path(__file__).resolve().parents[4]

SENT = [
    protocol.welcome("s_1", 15000, True, 1795400000, (500, 30000), (1, 250)),
    protocol.ack_policy("tenant:acme", 0.25, 2000),
    protocol.snapshot("tenant:acme", 0, b"null"),
    protocol.snapshot("tenant:acme", 7, b'{"a":1}', b'{"source":"x"}', reset=True),
    protocol.patch("tenant:acme", 7, 8, b'{"a":2}', b'{"source":"x"}'),
    protocol.current("tenant:acme", 8),
    protocol.pending("tenant:acme", 8),
    protocol.expired("tenant:acme", 8),
    protocol.heartbeat(9, False, 8),
    protocol.gone("tenant:acme", "revoked"),
    protocol.error("forbidden", "no", "tenant:acme"),
    protocol.error("bad_json", "no"),
    protocol.bye(1000),
]


def strict(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


@pytest.mark.parametrize("frame", SENT, ids=lambda frame: orjson.loads(frame)["type"])
def test_what_the_gateway_sends_is_what_the_document_says(frame: bytes) -> None:
    value = orjson.loads(frame)
    model = asyncapi.OUTBOUND[value["type"]]
    assert set(value) <= set(model.__annotations__), "no member that is not described"
    strict(model).validate_python(value)


def test_every_frame_that_is_described_is_tried() -> None:
    assert {orjson.loads(frame)["type"] for frame in SENT} == set(asyncapi.OUTBOUND)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "hello", "token": "t", "topics": {"tenant:acme": 0}, "client": "c"},
        {"type": "hello", "token": "t"},
        {"type": "subscribe", "topic": "sandbox/tenant:acme", "version": 3},
        {"type": "unsubscribe", "topic": "tenant:acme"},
        {"type": "ack", "topic": "tenant:acme", "version": 3},
        {"type": "nack", "topic": "tenant:acme", "version": 3, "reason": "r"},
        {"type": "expect", "topic": "tenant:acme"},
        {"type": "token", "token": "t", "unknown": 1},
        {"type": "ack", "topic": "tenant:acme"},
        {"type": "ack", "topic": "nonsense", "version": 1},
        {"type": "ack", "topic": "tenant:acme", "version": -1},
        {"type": "expect", "topic": "tenant:acme", "timeout_ms": 0},
        {"type": "expect", "topic": "tenant:acme", "timeout_ms": protocol.TIMEOUT_MAX_MS + 1},
        {"type": "hello", "topics": {}},
        {"type": "hello", "token": "t", "topics": {"nonsense": 0}},
    ],
    ids=str,
)
def test_the_parser_takes_what_the_document_says_and_nothing_else(value: dict[str, Any]) -> None:
    try:
        strict(asyncapi.INBOUND[value["type"]]).validate_python(value, strict=True)
        described = True
    except ValidationError:
        described = False
    try:
        protocol.parse(orjson.dumps(value))
        taken = True
    except protocol.ProtocolError:
        taken = False
    assert taken is described


def test_the_committed_document_is_current() -> None:
    assert (ROOT / "docs" / "asyncapi.json").read_bytes() == asyncapi.encode(), "run: make docs"


def test_the_protocol_page_names_every_frame_and_close_code() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    for name in (*asyncapi.INBOUND, *asyncapi.OUTBOUND):
        assert f"`{name}`" in page, name
    for code in protocol.CloseCode:
        assert re.search(rf"^\| {code.value} \|", page, re.M), code
