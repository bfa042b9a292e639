"""Every frame that a gateway sends, in each of its forms, beside the JSON that clients must read in it."""

from __future__ import annotations

from typing import Any

from gateway.ws import protocol
from planwire_client.core.limits import VERSION_MAX

EXAMPLES: list[tuple[bytes, dict[str, Any]]] = [
    (
        protocol.welcome("s_1", 15_000, True, 1_795_400_000, (500, 30_000), (1, 250)),
        {
            "type": "welcome",
            "session": "s_1",
            "heartbeat_ms": 15_000,
            "fresh": True,
            "token_expires_at": 1_795_400_000,
            "reconnect": {"min_ms": 500, "max_ms": 30_000},
            "ack": {"share": 1, "after_ms": 250},
        },
    ),
    (
        protocol.snapshot("tenant:a", 5, b'{"a":1}', b'{"source":"x"}', reset=True),
        {
            "type": "snapshot",
            "topic": "tenant:a",
            "version": 5,
            "state": {"a": 1},
            "reset": True,
            "cause": {"source": "x"},
        },
    ),
    (
        protocol.snapshot("tenant:a", 0, b"null"),
        {"type": "snapshot", "topic": "tenant:a", "version": 0, "state": None},
    ),
    (
        protocol.patch("tenant:a", 5, 6, b'{"a":null}', b"{}"),
        {"type": "patch", "topic": "tenant:a", "base": 5, "version": 6, "patch": {"a": None}, "cause": {}},
    ),
    (
        protocol.patch("tenant:a", 5, 6, b"{}"),
        {"type": "patch", "topic": "tenant:a", "base": 5, "version": 6, "patch": {}},
    ),
    (protocol.current("tenant:a", VERSION_MAX), {"type": "current", "topic": "tenant:a", "version": VERSION_MAX}),
    (protocol.pending("tenant:a", 5), {"type": "pending", "topic": "tenant:a", "after": 5}),
    (protocol.expired("tenant:a", 5), {"type": "expired", "topic": "tenant:a", "after": 5}),
    (
        protocol.heartbeat(7, False, 6),
        {"type": "heartbeat", "at": 7, "fresh": False, "verified_at": 6},
    ),
    (protocol.heartbeat(7, True, 6), {"type": "heartbeat", "at": 7, "fresh": True, "verified_at": 6}),
    (
        protocol.ack_policy("tenant:a", 0.5, 250),
        {"type": "ack_policy", "topic": "tenant:a", "share": 0.5, "after_ms": 250},
    ),
    (protocol.gone("tenant:a", "revoked"), {"type": "gone", "topic": "tenant:a", "reason": "revoked"}),
    (protocol.bye(1000), {"type": "bye", "reconnect_ms": 1000}),
    (protocol.error("c", "m"), {"type": "error", "code": "c", "message": "m"}),
    (protocol.error("c", '"', "tenant:a"), {"type": "error", "code": "c", "message": '"', "topic": "tenant:a"}),
]
