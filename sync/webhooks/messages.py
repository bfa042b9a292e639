"""The messages that endpoints receive. Pure.

A message's id is made of what it says, so that a receiver recognizes it when it is sent again, also after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from planwire_client.core.topic import Topic, decode_id
from sync.billing.domain.entitlements.preview import difference
from sync.core import instants

CHANGED = "entitlements.changed"
REACHED = "usage.threshold_reached"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        id: the same whenever it is sent.
        type: CHANGED or REACHED.
        body: JSON.
    """

    id: str
    type: str
    body: bytes


def changed(topic: str, version: int, state: bytes, previous: int, before: bytes | None) -> Message:
    """Return the message of a tenant's newest entitlements.

    Args:
        topic: the tenant's topic.
        version: its newest version.
        state: the public state of that version, JSON.
        previous: the version that the endpoint was told last; 0: none.
        before: its state; None if it is not known any more. Then the message has no list of changes.
    """
    now: Any = orjson.loads(state)
    data = _about(topic) | {"version": version} | ({"previous_version": previous} if previous else {}) | {"state": now}
    if before is not None:
        then: Any = orjson.loads(before)
        is_both = isinstance(now, Mapping) and isinstance(then, Mapping)
        data["changes"] = difference(then, now) if is_both else [{"path": "", "from": then, "to": now}]
    return _message(CHANGED, f"{topic} {version}", version, data)


def reached(topic: str, entry: str, fields: Mapping[bytes, bytes]) -> Message:
    """Return the message of a threshold that a tenant's usage has reached.

    Args:
        topic: the tenant's topic.
        entry: the id of the stream's entry.
        fields: meter, threshold (percent), used, limit, and at (microseconds since 1970).
    """
    numbers = {name: int(fields[name.encode()]) for name in ("threshold", "used", "limit")}
    data = _about(topic) | {"meter": fields[b"meter"].decode()} | numbers
    return _message(REACHED, f"{topic} {entry}", int(fields[b"at"]), data)


def _about(topic: str) -> dict[str, object]:
    parsed = Topic.parse(topic)
    return {"tenant": decode_id(parsed.id), "env": parsed.env}


def _message(kind: str, subject: str, at_us: int, data: Mapping[str, object]) -> Message:
    body = orjson.dumps({"type": kind, "timestamp": instants.text_us(at_us), "data": data})
    return Message(f"msg_{hashlib.sha256(f'{kind} {subject}'.encode()).hexdigest()[:32]}", kind, body)
