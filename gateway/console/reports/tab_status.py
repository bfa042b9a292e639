"""What the console says of topics, tabs, versions and events, as plain values. Pure: reads, computes, keeps nothing.

Private parts never get here: what is shaped is what browsers are sent, and what the log keeps of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from sync.core import instants

if TYPE_CHECKING:
    from gateway.hub.topic import Subscription
    from gateway.metrics import Histogram
    from sync.store.store import LogEntry, Snapshot

DIFF_MAX = 500
"""Differences listed between two versions."""

CHANGED_PATHS_MAX = 4
"""Paths that a line of the timeline names."""


class Status(StrEnum):
    """What is known of one tab, the worst first."""

    NACKED = "NACKED"
    BEHIND = "BEHIND"
    STALE = "STALE"
    SENT = "SENT"
    SYNCED = "SYNCED"


class View(NamedTuple):
    """What a judgement depends on besides the tab.

    Attributes:
        now: seconds since 1970.
        grace_s: how long an ack may take before the tab counts as behind.
        crowd: audience beyond which a gateway asks only a share of the tabs for acks.
        is_current: this gateway is proved to know the newest version.
    """

    now: float
    grace_s: float
    crowd: int
    is_current: bool


class Judgement(NamedTuple):
    """A status, why in one sentence, and for how long the tab has owed its answer (seconds, None where it does not)."""

    status: Status
    why: str
    owed_s: float | None


def judge(tab: Subscription, since: float, view: View) -> Judgement:
    """Return what is known of a tab whose socket was opened at `since` (seconds since 1970)."""
    live = tab.live
    version = live.version
    owed_s = max(0.0, view.now - max(version / 1e6, since))
    if version and tab.nacked == version > tab.acked:
        return Judgement(Status.NACKED, "It received the newest version and could not use it.", owed_s)
    if not live.known or tab.sent < 0:
        return Judgement(Status.STALE, "This gateway is reading the topic again and has not answered it yet.", owed_s)
    is_proved = tab.sent == version and version in (0, tab.acked, tab.client_version)
    if is_proved and view.is_current:
        return Judgement(Status.SYNCED, "It shows the newest version.", None)
    blocked = tab.socket.pending is not None
    if tab.sent != version or (blocked and not is_proved):
        if blocked:
            why = "Its connection takes no more data; it gets the newest version when it does."
            return Judgement(Status.BEHIND, why, owed_s)
        if owed_s > view.grace_s:
            return Judgement(Status.BEHIND, "The newest version has not been sent to it yet.", owed_s)
    if not view.is_current:
        why = "It has what this gateway has, and that is not proved to be the newest."
        return Judgement(Status.STALE, why, None if is_proved else owed_s)
    if tab.acked > version:
        return Judgement(Status.SENT, "It was sent back to this version, which is not acknowledged again.", None)
    if len(live.subscriptions) > view.crowd:
        return Judgement(Status.SENT, "Sent. Of a crowd this size only a share is asked to acknowledge.", None)
    if owed_s > view.grace_s:
        why = "The newest version was sent, and it has not said that it shows it."
        return Judgement(Status.BEHIND, why, owed_s)
    return Judgement(Status.SENT, "Just sent; its answer is awaited.", owed_s)


def worst(counts: Mapping[Status, int]) -> Status | None:
    """Return the worst status that occurs, or None where there are no tabs."""
    return next((status for status in Status if counts.get(status)), None)


def named(counts: Mapping[Status, int]) -> dict[str, int]:
    """Return the counts of all statuses by their names."""
    return {status.value: counts.get(status, 0) for status in Status}


def age_s(version: int, now: float) -> float | None:
    """Return how old a version is in seconds, None for version 0. A store clock ahead of ours counts as 0."""
    return max(0.0, now - version / 1e6) if version else None


def committed(snapshot: Snapshot) -> dict[str, Any]:
    """Return the newest committed version: its instant is the version itself, microseconds since 1970."""
    return {"version": snapshot.version, "state": pretty(snapshot.state), "cause": cause(snapshot.cause)}


def cause(raw: bytes) -> dict[str, str]:
    """Return a cause's members as text; empty where there is none or it is not an object."""
    try:
        value = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: item if isinstance(item, str) else compact(item) for name, item in value.items()}


def pretty(raw: bytes) -> str:
    """Return JSON as indented text: text, so that a browser's numbers cannot change it."""
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
    """Return where two JSON values differ, in the order of the paths' keys, at most `limit`.

    Objects are compared member by member, arrays element by element, everything else as a whole.
    """
    found: list[Difference] = []
    pending: list[tuple[str, object, object]] = [("", old, new)]
    while pending and len(found) < limit:
        path, left, right = pending.pop()
        inner = _members(left, right)
        if inner is not None:
            pending.extend((f"{path}/{_escape(key)}", one, other) for key, one, other in reversed(inner))
        elif left is _ABSENT or right is _ABSENT or compact(left) != compact(right):  # in JSON true is not 1
            found.append(
                Difference(
                    path, None if left is _ABSENT else compact(left), None if right is _ABSENT else compact(right)
                )
            )
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


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def timeline(entries: Sequence[LogEntry], count: int) -> list[dict[str, Any]]:
    """Return up to `count` versions, newest first, each with its cause and what it changed.

    `changed` is None for the oldest entry of the log: what came before it is not kept.
    """
    states = [orjson.loads(entry.state) for entry in entries[: count + 1]]
    lines = []
    for index, entry in enumerate(entries[:count]):
        line: dict[str, Any] = {
            "version": entry.version,
            "at": instants.text_us(entry.version),
            "cause": cause(entry.cause),
            "verdict": "applied",
            "bytes": len(entry.state),
        }
        line["changed"] = line["paths"] = None
        if index + 1 < len(states):
            found = differences(states[index + 1], states[index])
            line["changed"] = len(found)
            line["paths"] = [item.path or "/" for item in found[:CHANGED_PATHS_MAX]]
        lines.append(line)
    return lines


def event(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return one processed event of a topic's stream; `at` in microseconds since 1970, 0 where it is not told."""
    text = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}
    at = text.get("at", "")
    shown: dict[str, Any] = {name: text.get(name, "") for name in ("event_id", "type", "outcome", "reason")}
    return shown | {"at": int(at) if at.isascii() and at.isdigit() else 0}


class Quantile(NamedTuple):
    """`within_s`: the bucket bound that a share of the observations stays within; None: it is beyond `beyond_s`."""

    within_s: float | None
    beyond_s: float


def quantile(histogram: Histogram, share: float) -> Quantile | None:
    """Return the bound that `share` (0 to 1) of the observations stays within, None where nothing was observed."""
    total = sum(histogram.counts)
    if not total:
        return None
    running = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        running += count
        if running >= share * total:
            return Quantile(bound, bound)
    return Quantile(None, histogram.bounds[-1])


def worst_first(judged: Iterable[tuple[Subscription, Judgement]]) -> list[tuple[Subscription, Judgement]]:
    """Return the tabs ordered by status, the worst first; within one status the order stays."""
    buckets: dict[Status, list[tuple[Subscription, Judgement]]] = {status: [] for status in Status}
    for item in judged:
        buckets[item[1].status].append(item)
    return [item for bucket in buckets.values() for item in bucket]
