"""The gateway's frames as bytes: those of clients read, its own encoded (docs/protocol.md). Pure.

`planwire_client.core.frames` declares them. Frames that name a topic carry nothing per connection, so that one encoding
serves every socket; they are spliced from ready-made JSON, which is never parsed on the way.
"""

from __future__ import annotations

import orjson

from planwire_client.core.fields import template
from planwire_client.core.frames import OUTBOUND

_TEMPLATES = {name: template(name, declared) for name, declared in OUTBOUND.items()}
_FLAG = (b"false", b"true")


def welcome(
    session: str,
    heartbeat_ms: int,
    fresh: bool,
    token_expires_at: int,
    reconnect_ms: tuple[int, int],
    ack: tuple[float, int],
) -> bytes:
    """Return the answer to a hello. `token_expires_at`: Unix seconds; `ack`: share of versions acked, delay in ms."""
    return _TEMPLATES["welcome"] % (session.encode(), heartbeat_ms, _FLAG[fresh], token_expires_at, *reconnect_ms, *ack)


def snapshot(topic: str, version: int, state: bytes, cause: bytes = b"", *, reset: bool = False) -> bytes:
    """Return the whole state. `reset`: the store lost newer state, and a lower version is to be accepted."""
    more = (b',"reset":true' if reset else b"") + (b',"cause":' + cause if cause else b"")
    return _TEMPLATES["snapshot"] % (topic.encode(), version, state, more)


def patch(topic: str, base: int, version: int, merge_patch: bytes, cause: bytes = b"") -> bytes:
    """Return the change from `base` to `version`; only for a socket that holds `base`."""
    return _TEMPLATES["patch"] % (topic.encode(), base, version, merge_patch, b',"cause":' + cause if cause else b"")


def current(topic: str, version: int) -> bytes:
    """Return the frame that says that the version held is the newest."""
    return _TEMPLATES["current"] % (topic.encode(), version)


def pending(topic: str, after: int) -> bytes:
    """Return the answer to an expect: nothing is newer than `after` yet, and the provider is asked."""
    return _TEMPLATES["pending"] % (topic.encode(), after)


def expired(topic: str, after: int) -> bytes:
    """Return the end of an expect: nothing newer than `after` came in time."""
    return _TEMPLATES["expired"] % (topic.encode(), after)


def heartbeat(at_us: int, fresh: bool, verified_at_us: int) -> bytes:
    """Return the sign of life; `verified_at_us` is when the bus was last proved to deliver."""
    return _TEMPLATES["heartbeat"] % (at_us, _FLAG[fresh], verified_at_us)


def ack_policy(topic: str, share: float, after_ms: int) -> bytes:
    """Return a changed ack policy of one topic."""
    return _TEMPLATES["ack_policy"] % (topic.encode(), share, after_ms)


def gone(topic: str, reason: str) -> bytes:
    """Return the end of a subscription by the gateway; `reason` is revoked, expired or erased."""
    return _TEMPLATES["gone"] % (topic.encode(), reason.encode())


def bye(reconnect_ms: int) -> bytes:
    """Return the announcement of a close: come back in random(0..reconnect_ms)."""
    return _TEMPLATES["bye"] % reconnect_ms


def error(code: str, message: str, topic: str | None = None) -> bytes:
    """Return an error frame with a stable `code`."""
    of_topic = b"" if topic is None else b',"topic":"%b"' % topic.encode()
    return _TEMPLATES["error"] % (code.encode(), orjson.dumps(message)[1:-1], of_topic)
