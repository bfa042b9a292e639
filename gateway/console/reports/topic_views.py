"""A topic's states, versions and events in the console's form. Pure.

Private parts never reach this module: its input is the states sent to browsers, and their copies in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from sync.core import instants

if TYPE_CHECKING:
    from sync.store.models import LogEntry, Snapshot

DIFF_MAX = 500
"""Maximum number of differences listed between two versions."""

CHANGED_PATHS_MAX = 4
"""Maximum number of paths in a line of the timeline."""


def age_s(version: int, now: float) -> float | None:
    """Return the age of a version in seconds; None for version 0. It is 0 if the store's clock is ahead of ours."""
    return max(0.0, now - version / 1e6) if version else None


def committed(snapshot: Snapshot, now: float) -> dict[str, Any]:
    """Return the newest committed version. A version is the time of its commit, in microseconds since 1970."""
    return {
        "version": snapshot.version,
        "state": pretty(snapshot.state),
        "cause": cause(snapshot.cause),
        "age_s": age_s(snapshot.version, now),
    }


def cause(raw: bytes) -> dict[str, str]:
    """Return a cause's members as text; empty if there is none or it is not an object."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        return {}
    return {name: item if isinstance(item, str) else compact(item) for name, item in value.items()}


def pretty(raw: bytes) -> str:
    """Return JSON as indented text, which a browser shows without converting its numbers."""
    try:
        return orjson.dumps(orjson.loads(raw), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return raw.decode("utf-8", "replace")


def compact(value: object) -> str:
    """Return a JSON value as text on one line."""
    return orjson.dumps(value).decode()


class Difference(NamedTuple):
    """One difference: `path` is a JSON Pointer (RFC 6901), `old` and `new` are JSON text, None where absent."""

    path: str
    old: str | None
    new: str | None


_ABSENT = object()


def differences(old: object, new: object, limit: int = DIFF_MAX) -> list[Difference]:
    """Return the differences between two JSON values, sorted by path, at most `limit`.

    Objects are compared by member, arrays by element, and all other values as a whole.
    """
    found: list[Difference] = []
    pending: list[tuple[str, object, object]] = [("", old, new)]
    while pending and len(found) < limit:
        path, left, right = pending.pop()
        inner = _members(left, right)
        if inner is not None:
            for key, one, other in reversed(inner):
                pending.append((f"{path}/{key.replace('~', '~0').replace('/', '~1')}", one, other))
        elif left is _ABSENT or right is _ABSENT or compact(left) != compact(right):  # in JSON true is not 1
            found.append(Difference(path, *(None if one is _ABSENT else compact(one) for one in (left, right))))
    return found


def _members(left: object, right: object) -> list[tuple[str, object, object]] | None:
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted({*left, *right})
        return [(key, left.get(key, _ABSENT), right.get(key, _ABSENT)) for key in keys]
    if isinstance(left, list) and isinstance(right, list):
        size = max(len(left), len(right))
        longer = ([*side, *[_ABSENT] * (size - len(side))] for side in (left, right))
        return [(str(index), one, other) for index, (one, other) in enumerate(zip(*longer, strict=True))]
    return None


def timeline(entries: Sequence[LogEntry], count: int) -> list[dict[str, Any]]:
    """Return up to `count` versions, newest first, each with its cause and its changes.

    `changed` is None for the oldest entry of the log, because its predecessor is no longer stored.
    """
    states = [orjson.loads(entry.state) for entry in entries[: count + 1]]
    lines = []
    for index, entry in enumerate(entries[:count]):
        found = differences(states[index + 1], states[index]) if index + 1 < len(states) else None
        lines.append(
            {
                "version": entry.version,
                "at": instants.text_us(entry.version),
                "cause": cause(entry.cause),
                "verdict": "applied",
                "bytes": len(entry.state),
                "changed": None if found is None else len(found),
                "paths": None if found is None else [item.path or "/" for item in found[:CHANGED_PATHS_MAX]],
            }
        )
    return lines


def event(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return one processed event of a topic's stream; `at` in microseconds since 1970, 0 if unknown."""
    text = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}
    at = text.get("at", "")
    shown: dict[str, Any] = {name: text.get(name, "") for name in ("event_id", "type", "outcome", "reason")}
    return shown | {"at": int(at) if at.isascii() and at.isdigit() else 0}
