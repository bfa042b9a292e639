"""The status of a tab: whether it shows the newest version. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway.hub.subscription import Subscription


class Status(StrEnum):
    """The status of a tab or gateway, the worst first."""

    NACKED = "NACKED"
    BEHIND = "BEHIND"
    STALE = "STALE"
    SENT = "SENT"
    SYNCED = "SYNCED"


UNHEALTHY = frozenset((Status.NACKED, Status.BEHIND, Status.STALE))
"""The statuses of a tab that shows an old version, or may show one."""


RANK: dict[str, int] = {status: rank for rank, status in enumerate(Status)}
"""The rank of each status; 0: the worst."""


class View(NamedTuple):
    """The inputs for the status of a tab besides the tab.

    Attributes:
        now: seconds since 1970.
        grace_s: seconds that an ack may take before the tab counts as behind.
        crowd: number of tabs above which only a share of them sends acks.
        is_current: this gateway is proved to know the newest version.
    """

    now: float
    grace_s: float
    crowd: int
    is_current: bool


class TabStatus(NamedTuple):
    """A status, the reason in one sentence, and for how many seconds an ack is due (None: no ack is due)."""

    status: Status
    why: str
    owed_s: float | None


def evaluate(tab: Subscription, view: View) -> TabStatus:
    """Return the status of a tab. The time that an ack is due starts no earlier than its socket was opened."""
    live = tab.live
    version = live.version
    owed_s = max(0.0, view.now - max(version / 1e6, tab.socket.opened_at))
    if version and tab.nacked == version > tab.acked:
        return TabStatus(Status.NACKED, "It received the newest version and could not use it.", owed_s)
    if not live.known or tab.sent < 0:
        return TabStatus(Status.STALE, "This gateway is reading the topic again and has not answered it yet.", owed_s)
    is_proved = tab.sent == version and version in (0, tab.acked, tab.client_version)
    if is_proved and view.is_current:
        return TabStatus(Status.SYNCED, "It shows the newest version.", None)
    blocked = tab.socket.pending is not None
    if tab.sent != version or (blocked and not is_proved):
        if blocked:
            why = "Its connection takes no more data; it gets the newest version when it does."
            return TabStatus(Status.BEHIND, why, owed_s)
        if owed_s > view.grace_s:
            return TabStatus(Status.BEHIND, "The newest version has not been sent to it yet.", owed_s)
    if not view.is_current:
        why = "It has what this gateway has, and that is not proved to be the newest."
        return TabStatus(Status.STALE, why, None if is_proved else owed_s)
    if tab.acked > version:
        return TabStatus(Status.SENT, "It was sent back to this version, which is not acknowledged again.", None)
    if len(live.subscriptions) > view.crowd:
        return TabStatus(Status.SENT, "Sent. Of a crowd this size only a share is asked to acknowledge.", None)
    if owed_s > view.grace_s:
        why = "The newest version was sent, and it has not said that it shows it."
        return TabStatus(Status.BEHIND, why, owed_s)
    return TabStatus(Status.SENT, "Just sent; its answer is awaited.", owed_s)


def worst(counts: Mapping[str, int]) -> Status | None:
    """Return the worst status that occurs, or None without tabs."""
    return next((status for status in Status if counts.get(status)), None)


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of counts by name, with all statuses."""
    totals = {status.value: 0 for status in Status}
    for part in parts:
        for name, count in part.items():
            totals[name] += count
    return totals


def nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts by name, without zeros."""
    return {status.value: counts[status] for status in Status if counts.get(status)}


def worst_first(evaluated: Iterable[tuple[Subscription, TabStatus]]) -> list[tuple[Subscription, TabStatus]]:
    """Return the tabs sorted by status, the worst first; the order within a status is kept."""
    return sorted(evaluated, key=lambda item: RANK[item[1].status])
