"""The protocol's description is in step with the code that speaks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from planwire_client.core.fields import ABSENT, FrameError, fields_of
from planwire_client.core.frames import INBOUND, OUTBOUND, CloseCode, read_inbound
from planwire_client.core.limits import TIMEOUT_MAX_MS
from tests.support.sent_frames import EXAMPLES
from tools.docs import asyncapi

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs" / "protocol.md").read_text("utf-8")


SENT = [frame for frame, _ in EXAMPLES]

KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "null": type(None),
}


def allows(schema: dict[str, Any], value: Any) -> bool:
    """Whether `value` is what `schema` says, as far as the document uses JSON Schema."""
    if "anyOf" in schema:
        return any(allows(one, value) for one in schema["anyOf"])
    if not isinstance(value, KINDS[schema["type"]]) or (schema["type"] != "boolean" and isinstance(value, bool)):
        return False
    if value != schema.get("const", value) or value not in schema.get("enum", [value]):
        return False
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        named = all(allows(inner[name], member) for name, member in value.items() if name in inner)
        patterned = all(
            re.search(pattern, name) and allows(one, member)
            for pattern, one in schema.get("patternProperties", {}).items()
            for name, member in value.items()
        )
        return named and patterned and set(schema.get("required", ())) <= set(value)
    return value is None or schema.get("minimum", value) <= value <= schema.get("maximum", value)


def payload(name: str) -> dict[str, Any]:
    found: dict[str, Any] = asyncapi.document()["channels"]["connect"]["messages"][name]["payload"]
    return found


@pytest.mark.parametrize("frame", SENT, ids=lambda frame: orjson.loads(frame)["type"])
def test_what_the_gateway_sends_is_what_the_document_says(frame: bytes) -> None:
    value = orjson.loads(frame)
    described = payload(value["type"])
    assert set(value) <= set(described["properties"]), "no member that is not described"
    assert allows(described, value)


def test_every_frame_that_is_described_is_tried() -> None:
    assert {orjson.loads(frame)["type"] for frame in SENT} == set(OUTBOUND)


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
        {"type": "expect", "topic": "tenant:acme", "timeout_ms": TIMEOUT_MAX_MS + 1},
        {"type": "hello", "topics": {}},
        {"type": "hello", "token": "t", "topics": {"nonsense": 0}},
    ],
    ids=str,
)
def test_the_gateway_takes_what_the_document_says_and_nothing_else(value: dict[str, Any]) -> None:
    try:
        read_inbound(orjson.dumps(value))
        taken = True
    except FrameError:
        taken = False
    assert allows(payload(value["type"]), value) is taken


def test_the_committed_document_is_current() -> None:
    assert (ROOT / "docs" / "asyncapi.json").read_bytes() == asyncapi.encode(), "run: make docs"


def test_the_protocol_page_names_every_close_code() -> None:
    for code in CloseCode:
        assert re.search(rf"^\| {code.value} \|", PAGE, re.M), code


def table(heading: str) -> dict[str, list[str]]:
    """Return the fields of each frame in the table below `heading`; a question mark ends what may be left out."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = re.findall(r"(?m)^\| `(\w+)` \| (.*?) \|", section)
    return {name: re.findall(r"`(\w+`\??)", re.sub(r"\{.*?\}|\(.*?\)", "", fields)) for name, fields in rows}


def declared(types: dict[str, Any]) -> dict[str, list[str]]:
    return {
        name: [f"{field.name}`" + "?" * (field.default is not ABSENT) for field in fields_of(frame)]
        for name, frame in types.items()
    }


def test_the_protocol_pages_tables_are_the_declared_frames() -> None:
    assert table("Frames to the gateway") == declared(INBOUND)
    assert table("Frames to the client") == declared(OUTBOUND)
