"""The frames of `planwire.v1`, in and out (docs/protocol.md). Pure: bytes and values only.

Outbound frames are JSON bytes; those that name a topic are spliced from ready-made state bytes and carry nothing
per-connection, so one encoding serves every socket.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

import orjson

SUBPROTOCOL = "planwire.v1"

VERSION_MAX = 2**53 - 1
"""Versions are microseconds and must fit a JS number exactly."""

REASON_MAX_CHARS = 200
CLIENT_MAX_CHARS = 80
TIMEOUT_MAX_MS = 120_000

_TOPIC = re.compile(r"(?:[a-z][a-z0-9_-]{0,31}/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}")


class CloseCode(IntEnum):
    """Why a socket is closed. 4000-4499: come back; 4500-4999: do not."""

    GOING_AWAY = 4000
    NO_PROGRESS = 4008
    TOKEN = 4401
    PROTOCOL_ERROR = 4500
    NO_HELLO = 4501
    FORBIDDEN = 4503
    TOO_LARGE = 4513
    LIMIT = 4529


class ProtocolError(Exception):
    """The frame is not one of this protocol; `code` is stable, `topic` the one it named, if it did."""

    def __init__(self, code: str, message: str, topic: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.topic = topic


class Hello(NamedTuple):
    """`topics` maps each wanted topic to the version held, 0 for none."""

    token: str
    topics: dict[str, int]
    client: str


class Subscribe(NamedTuple):
    """`version`: the version held, 0 for none."""

    topic: str
    version: int


class Unsubscribe(NamedTuple):
    """No more of this topic."""

    topic: str


class Ack(NamedTuple):
    """The listeners ran with this version."""

    topic: str
    version: int


class Nack(NamedTuple):
    """The browser could not use this version."""

    topic: str
    version: int
    reason: str


class Expect(NamedTuple):
    """The browser awaits something newer than `after`, for `timeout_ms`."""

    topic: str
    after: int
    timeout_ms: int


class Token(NamedTuple):
    """A fresh token, in band."""

    token: str


Inbound = Hello | Subscribe | Unsubscribe | Ack | Nack | Expect | Token


def parse(data: bytes) -> Inbound:
    """Return the frame in `data`; unknown fields are ignored.

    Raises:
        ProtocolError: `bad_json`, `bad_frame` (a field is missing or of the wrong kind), `bad_topic` or `unknown_type`.
    """
    try:
        frame = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ProtocolError("bad_json", "the frame is not JSON") from None
    if not isinstance(frame, dict):
        raise ProtocolError("bad_frame", "the frame is not a JSON object")
    match frame.get("type"):
        case "ack":
            return Ack(_topic(frame), _version(frame, "version"))
        case "hello":
            topics = frame.get("topics", {})
            if not isinstance(topics, dict):
                raise ProtocolError("bad_frame", "topics must be an object of topic: version held")
            for name, version in topics.items():
                _check_topic(name)
                _check_version(version, "topics", name)
            return Hello(_text(frame, "token"), topics, _text(frame, "client", "")[:CLIENT_MAX_CHARS])
        case "subscribe":
            return Subscribe(_topic(frame), _version(frame, "version", 0))
        case "unsubscribe":
            return Unsubscribe(_topic(frame))
        case "nack":
            reason = _text(frame, "reason", "")[:REASON_MAX_CHARS]
            return Nack(_topic(frame), _version(frame, "version"), reason)
        case "expect":
            timeout_ms = frame.get("timeout_ms", 30_000)
            if type(timeout_ms) is not int or not 1 <= timeout_ms <= TIMEOUT_MAX_MS:
                raise ProtocolError("bad_frame", f"timeout_ms must be an integer from 1 to {TIMEOUT_MAX_MS}")
            return Expect(_topic(frame), _version(frame, "after", 0), timeout_ms)
        case "token":
            return Token(_text(frame, "token"))
        case other:
            raise ProtocolError("unknown_type", f"no frame has the type {_shown(other, 40)}")


def _text(frame: dict[str, object], name: str, default: str | None = None) -> str:
    value = frame.get(name, default)
    if not isinstance(value, str):
        raise ProtocolError("bad_frame", f"{name} must be a string")
    return value


def _shown(value: object, chars: int) -> str:
    """Return text for a refusal. Only strings are shown: the repr of a deeply nested value would overflow the stack."""
    return repr(value[:chars]) if isinstance(value, str) else "null" if value is None else f"a {type(value).__name__}"


def _check_topic(value: object) -> str:
    if not isinstance(value, str) or _TOPIC.fullmatch(value) is None or value.startswith("live/"):
        raise ProtocolError("bad_topic", f"{_shown(value, 80)} is not a topic; expected [env/]kind:id")
    return value


def _topic(frame: dict[str, object]) -> str:
    return _check_topic(frame.get("topic"))


def _check_version(value: object, name: str, topic: str | None = None) -> int:
    if type(value) is not int or not 0 <= value <= VERSION_MAX:
        raise ProtocolError("bad_frame", f"{name} must be an integer from 0 to 2^53-1", topic)
    return value


def _version(frame: dict[str, object], name: str, default: int | None = None) -> int:
    return _check_version(frame.get(name, default), name)


def welcome(
    session: str,
    heartbeat_ms: int,
    fresh: bool,
    token_expires_at: int,
    reconnect_ms: tuple[int, int],
    ack: tuple[float, int],
) -> bytes:
    """Return the answer to a hello. `token_expires_at`: Unix seconds; `ack`: share of versions acked, delay in ms."""
    return orjson.dumps(
        {
            "type": "welcome",
            "session": session,
            "heartbeat_ms": heartbeat_ms,
            "fresh": fresh,
            "token_expires_at": token_expires_at,
            "reconnect": {"min_ms": reconnect_ms[0], "max_ms": reconnect_ms[1]},
            "ack": {"share": ack[0], "after_ms": ack[1]},
        }
    )


def snapshot(topic: str, version: int, state: bytes, cause: bytes = b"", *, reset: bool = False) -> bytes:
    """Return the whole state as a frame. `reset`: the store lost newer state, a lower version is to be accepted."""
    return b'{"type":"snapshot","topic":"%b","version":%d,"state":%b%b%b}' % (
        topic.encode(),
        version,
        state,
        b',"reset":true' if reset else b"",
        b',"cause":' + cause if cause else b"",
    )


def patch(topic: str, base: int, version: int, merge_patch: bytes, cause: bytes = b"") -> bytes:
    """Return the change from `base` to `version` as a frame; only for a socket that holds `base`."""
    return b'{"type":"patch","topic":"%b","base":%d,"version":%d,"patch":%b%b}' % (
        topic.encode(),
        base,
        version,
        merge_patch,
        b',"cause":' + cause if cause else b"",
    )


def current(topic: str, version: int) -> bytes:
    """Return the frame that says: what you hold is the newest."""
    return b'{"type":"current","topic":"%b","version":%d}' % (topic.encode(), version)


def pending(topic: str, after: int) -> bytes:
    """Return the answer to an expect: nothing newer yet, it is being looked for."""
    return b'{"type":"pending","topic":"%b","after":%d}' % (topic.encode(), after)


def expired(topic: str, after: int) -> bytes:
    """Return the end of an expect: nothing newer came in time."""
    return b'{"type":"expired","topic":"%b","after":%d}' % (topic.encode(), after)


def heartbeat(at_us: int, fresh: bool, verified_at_us: int) -> bytes:
    """Return the sign of life; `verified_at_us` is when the bus was last proved to deliver."""
    return b'{"type":"heartbeat","at":%d,"fresh":%b,"verified_at":%d}' % (
        at_us,
        b"true" if fresh else b"false",
        verified_at_us,
    )


def ack_policy(topic: str, share: float, after_ms: int) -> bytes:
    """Return a changed ack policy of one topic."""
    return orjson.dumps({"type": "ack_policy", "topic": topic, "share": share, "after_ms": after_ms})


def gone(topic: str, reason: str) -> bytes:
    """Return the end of a subscription by the gateway; `reason` is revoked, expired or erased."""
    return orjson.dumps({"type": "gone", "topic": topic, "reason": reason})


def bye(reconnect_ms: int) -> bytes:
    """Return the announcement of a close: come back in random(0..reconnect_ms)."""
    return b'{"type":"bye","reconnect_ms":%d}' % reconnect_ms


def error(code: str, message: str, topic: str | None = None) -> bytes:
    """Return an error frame with a stable `code`."""
    frame = {"type": "error", "code": code, "message": message}
    if topic is not None:
        frame["topic"] = topic
    return orjson.dumps(frame)
