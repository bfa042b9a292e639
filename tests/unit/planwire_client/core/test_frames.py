"""Frames that clients send: each is what it says, or a FrameError with a stable code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from planwire_client.core.fields import FrameError
from planwire_client.core.frames import (
    Ack,
    CloseCode,
    Error,
    Expect,
    Hello,
    Nack,
    Subscribe,
    Token,
    Unsubscribe,
    read_inbound,
    write,
)
from planwire_client.core.limits import CLIENT_MAX_CHARS, REASON_MAX_CHARS, TIMEOUT_MAX_MS, VERSION_MAX
from tests.support.json_values import JSON

FIELDS = ["type", "topic", "version", "topics", "token", "client", "after", "timeout_ms", "reason"]
TYPES = ["hello", "subscribe", "unsubscribe", "ack", "nack", "expect", "token", "nonsense"]


def parse(**frame: Any) -> object:
    return read_inbound(json.dumps(frame).encode())


def code_of(data: bytes) -> str:
    with pytest.raises(FrameError) as caught:
        read_inbound(data)
    assert caught.value.message == str(caught.value)
    assert len(caught.value.message) < 300
    return caught.value.code


@pytest.mark.parametrize(
    ("frame", "parsed"),
    [
        ({"type": "hello", "token": "t"}, Hello("t", {}, "")),
        (
            {"type": "hello", "token": "t", "topics": {"tenant:a": 0, "sandbox/user:b": VERSION_MAX}, "client": "c/1"},
            Hello("t", {"tenant:a": 0, "sandbox/user:b": VERSION_MAX}, "c/1"),
        ),
        ({"type": "hello", "token": "", "client": "x" * 200}, Hello("", {}, "x" * CLIENT_MAX_CHARS)),
        ({"type": "subscribe", "topic": "tenant:a"}, Subscribe("tenant:a", 0)),
        ({"type": "subscribe", "topic": "tenant:a", "version": 7}, Subscribe("tenant:a", 7)),
        ({"type": "unsubscribe", "topic": "tenant:a"}, Unsubscribe("tenant:a")),
        ({"type": "ack", "topic": "tenant:a", "version": 7}, Ack("tenant:a", 7)),
        ({"type": "nack", "topic": "tenant:a", "version": 7}, Nack("tenant:a", 7, "")),
        (
            {"type": "nack", "topic": "tenant:a", "version": 7, "reason": "r" * 999},
            Nack("tenant:a", 7, "r" * REASON_MAX_CHARS),
        ),
        ({"type": "expect", "topic": "tenant:a"}, Expect("tenant:a", 0, 30_000)),
        ({"type": "expect", "topic": "tenant:a", "after": 7, "timeout_ms": 1}, Expect("tenant:a", 7, 1)),
        (
            {"type": "expect", "topic": "tenant:a", "after": 7, "timeout_ms": TIMEOUT_MAX_MS},
            Expect("tenant:a", 7, TIMEOUT_MAX_MS),
        ),
        ({"type": "token", "token": "t"}, Token("t")),
    ],
)
def test_every_frame_is_read_and_unknown_fields_are_ignored(frame: dict[str, Any], parsed: object) -> None:
    assert parse(**frame) == parsed
    assert parse(**frame, later={"added": [1]}) == parsed


@pytest.mark.parametrize("data", [b"", b"{", b"nope", b'{"type":"token","token":"\xff"}', b'"\\ud800"', b"\x00"])
def test_bad_json(data: bytes) -> None:
    assert code_of(data) == "bad_json"


@pytest.mark.parametrize("data", [b"1", b"null", b'"hello"', b"[]", b'[{"type":"hello"}]'])
def test_json_that_is_no_object_is_a_bad_frame(data: bytes) -> None:
    assert code_of(data) == "bad_frame"


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"type": None},
        {"type": "Hello"},
        {"type": "welcome"},
        {"type": 1},
        {"type": ["hello"]},
        {"type": {"hello": 1}},
        {"type": "x" * 60_000},
    ],
)
def test_unknown_types(frame: dict[str, Any]) -> None:
    assert code_of(json.dumps(frame).encode()) == "unknown_type"


NOT_VERSIONS = [-1, 1.0, 1.5, "1", True, False, None, [], {}, VERSION_MAX + 1, 2**63, 2**70]


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "hello"},
        {"type": "hello", "token": None},
        {"type": "hello", "token": 1},
        {"type": "hello", "token": "t", "topics": None},
        {"type": "hello", "token": "t", "topics": ["tenant:a"]},
        {"type": "hello", "token": "t", "client": None},
        {"type": "hello", "token": "t", "client": 1},
        {"type": "token"},
        {"type": "token", "token": ["t"]},
        {"type": "ack", "topic": "tenant:a"},
        {"type": "nack", "topic": "tenant:a"},
        {"type": "nack", "topic": "tenant:a", "version": 1, "reason": 1},
        *({"type": "hello", "token": "t", "topics": {"tenant:a": version}} for version in NOT_VERSIONS),
        *({"type": "ack", "topic": "tenant:a", "version": version} for version in NOT_VERSIONS),
        *({"type": "subscribe", "topic": "tenant:a", "version": version} for version in NOT_VERSIONS),
        *({"type": "expect", "topic": "tenant:a", "after": version} for version in NOT_VERSIONS),
        *(
            {"type": "expect", "topic": "tenant:a", "timeout_ms": timeout}
            for timeout in [0, -1, 1.0, "1", True, None, TIMEOUT_MAX_MS + 1]
        ),
        *(
            {"type": "expect", "topic": "tenant:a", "checkout": checkout}
            for checkout in [1, [], {}, "", "txn 1", "txn_1\n", "../subscriptions/sub_1", "cs_\u00e9", "x" * 256]
        ),
    ],
)
def test_fields_that_are_missing_or_of_the_wrong_kind_are_a_bad_frame(frame: dict[str, Any]) -> None:
    assert code_of(json.dumps(frame).encode()) == "bad_frame"


NOT_TOPICS = ["", "tenant", "tenant:", "live/tenant:a", "tenant:a b", "tenant:a\n", "tenant:é", "tenant:" + "a" * 129]


@pytest.mark.parametrize("type_", ["subscribe", "unsubscribe", "ack", "nack", "expect"])
@pytest.mark.parametrize("topic", [*NOT_TOPICS, None, 1, True, ["tenant:a"], {"tenant:a": 0}])
def test_bad_topics(type_: str, topic: object) -> None:
    assert code_of(json.dumps({"type": type_, "topic": topic, "version": 1}).encode()) == "bad_topic"


@pytest.mark.parametrize("topic", NOT_TOPICS)
def test_bad_topics_in_hello(topic: str) -> None:
    assert code_of(json.dumps({"type": "hello", "token": "t", "topics": {topic: 0}}).encode()) == "bad_topic"


@pytest.mark.parametrize("depth", [10, 500, 990, 1020, 20_000])
@pytest.mark.parametrize("field", ["type", "topic"])
def test_deeply_nested_values_are_refused_like_any_other(depth: int, field: str) -> None:
    head = b'{"type":"ack","%b":' % field.encode() if field == "topic" else b'{"type":'
    assert code_of(head + b"[" * depth + b"]" * depth + b"}") in ("unknown_type", "bad_topic", "bad_json")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_frame_error(data: bytes) -> None:
    try:
        read_inbound(data)
    except FrameError:
        return


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), st.sampled_from([*TYPES, "tenant:a", "live/t:a", "t"]) | JSON))
def test_no_json_raises_anything_but_a_frame_error(value: object) -> None:
    data = json.dumps(value).encode()
    try:
        read_inbound(data)
    except FrameError as error:
        json.loads(write(Error(error.code, error.message, error.topic)))


@given(
    type_=st.sampled_from(TYPES),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "topic": st.sampled_from(["tenant:a", "x"]) | JSON,
            "version": st.integers(-1, VERSION_MAX + 1) | JSON,
            "after": st.integers(-1, VERSION_MAX + 1) | JSON,
            "topics": st.dictionaries(st.sampled_from(["tenant:a", "x"]), st.integers(-1, 3)) | JSON,
            "token": st.text() | JSON,
            "timeout_ms": st.integers(0, 200_000) | JSON,
            "reason": st.text() | JSON,
            "client": st.text() | JSON,
        },
    ),
)
def test_whatever_is_parsed_is_within_bounds(type_: str, fields: dict[str, Any]) -> None:
    try:
        frame = parse(type=type_, **fields)
    except FrameError:
        return
    match frame:
        case Hello(token, topics, client):
            assert isinstance(token, str)
            assert len(client) <= CLIENT_MAX_CHARS
            assert all(type(version) is int and 0 <= version <= VERSION_MAX for version in topics.values())
        case Subscribe(topic, version) | Ack(topic, version) | Expect(topic, version, _) | Nack(topic, version, _):
            assert topic == "tenant:a"
            assert type(version) is int
            assert 0 <= version <= VERSION_MAX
        case _:
            assert isinstance(frame, Unsubscribe | Token)


def test_close_codes_say_by_their_range_whether_to_come_back() -> None:
    again = {code.name for code in CloseCode if 4000 <= code < 4500}
    never = {code.name for code in CloseCode if 4500 <= code < 5000}
    assert again == {"GOING_AWAY", "NO_PROGRESS", "TOKEN"}
    assert never == {"PROTOCOL_ERROR", "NO_HELLO", "FORBIDDEN", "TOO_LARGE", "LIMIT"}
