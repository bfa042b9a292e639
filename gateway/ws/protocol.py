"""The gateway's frames as bytes: reading clients' frames, encoding its own (docs/protocol.md). Pure.

`planwire_client.core.frames` declares them. Frames about a topic have no content per connection, so one encoding serves
every socket. They are assembled from stored JSON without parsing it.
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
    """Return the whole state. `reset`: the store lost newer state, and the client must accept a lower version."""
    more = (b',"reset":true' if reset else b"") + (b',"cause":' + cause if cause else b"")
    return _TEMPLATES["snapshot"] % (topic.encode(), version, state, more)


def patch(topic: str, base: int, version: int, merge_patch: bytes, cause: bytes = b"") -> bytes:
    """Return the change from `base` to `version`; only for a socket that holds `base`."""
    return _TEMPLATES["patch"] % (topic.encode(), base, version, merge_patch, b',"cause":' + cause if cause else b"")


def current(topic: str, version: int, checkout: str = "") -> bytes:
    """Return the frame that says that the client's version is the newest. `checkout`: it contains that checkout."""
    of_checkout = b',"checkout":"%b"' % checkout.encode() if checkout else b""
    return _TEMPLATES["current"] % (topic.encode(), version, of_checkout)


def pending(topic: str, after: int) -> bytes:
    """Return the answer to an expect: there is no version newer than `after` yet, and the provider is queried."""
    return _TEMPLATES["pending"] % (topic.encode(), after)


def expired(topic: str, after: int) -> bytes:
    """Return the end of an expect: no version newer than `after` came in time."""
    return _TEMPLATES["expired"] % (topic.encode(), after)


def heartbeat(at_us: int, fresh: bool, verified_at_us: int) -> bytes:
    """Return the heartbeat; `verified_at_us` is when the bus was last proved to deliver."""
    return _TEMPLATES["heartbeat"] % (at_us, _FLAG[fresh], verified_at_us)


def ack_policy(topic: str, share: float, after_ms: int) -> bytes:
    """Return a changed ack policy of one topic."""
    return _TEMPLATES["ack_policy"] % (topic.encode(), share, after_ms)


def gone(topic: str, reason: str) -> bytes:
    """Return the frame that ends a subscription; `reason` is revoked, expired or erased."""
    return _TEMPLATES["gone"] % (topic.encode(), reason.encode())


def bye(reconnect_ms: int) -> bytes:
    """Return the announcement of a close: the client reconnects after random(0..reconnect_ms)."""
    return _TEMPLATES["bye"] % reconnect_ms


def error(code: str, message: str, topic: str | None = None) -> bytes:
    """Return an error frame with a stable `code`."""
    of_topic = b"" if topic is None else b',"topic":"%b"' % topic.encode()
    return _TEMPLATES["error"] % (code.encode(), orjson.dumps(message)[1:-1], of_topic)
