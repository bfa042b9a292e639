"""What became of an event, a change or a subscription: one vocabulary for the inbox, the history and HTTP. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sync.core.errors import CodedError


class Outcome(StrEnum):
    """The words are stored and sent: they never change."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    """Older than what is known."""
    PARKED = "parked"
    """Kept until what it waits on is there."""
    IGNORED = "ignored"
    """It can say nothing about entitlements."""
    CONFLICT = "conflict"
    """The topic is at another version than the one that was named."""


WAITS_CATALOG = "catalog"
WAITS_SOFTWARE = "software"
"""What a parked event waits on besides links: an edited catalog, or a newer release that can read it."""


@dataclass(frozen=True, slots=True)
class EventResult:
    """What became of one event or change.

    Attributes:
        topic: the topic that it is about; empty where none was read.
        version: the topic's after it, microseconds since 1970; 0 where no topic was read.
        waits: what a parked event waits on: link subjects, WAITS_CATALOG or WAITS_SOFTWARE.
        keeps_body: whether the inbox may keep the event's body once it is done.
    """

    outcome: Outcome
    reason: str = ""
    topic: str = ""
    version: int = 0
    waits: tuple[str, ...] = ()
    keeps_body: bool = True


ERASED_REASON = "the tenant was erased"
"""The reason of every result about a tenant that was erased before."""

ERASED = EventResult(Outcome.IGNORED, ERASED_REASON, keeps_body=False)
"""The result of an event whose tenant was erased before it came."""


class ChangeRejected(CodedError):
    """Somebody asked for a change of a tenant that cannot be made: `code` is stable, `detail` is for people."""
