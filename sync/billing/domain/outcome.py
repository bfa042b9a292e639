"""The results of events, changes and subscriptions: one vocabulary for the inbox, the history and HTTP. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from sync.core.errors import CodedError


class Outcome(StrEnum):
    """The values are stored and sent, so they never change."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    """Not applied: older than the stored facts."""
    PARKED = "parked"
    """Kept until what it waits on exists."""
    IGNORED = "ignored"
    """It does not affect entitlements."""
    CONFLICT = "conflict"
    """The topic is at another version than expected."""


WAITS_CATALOG = "catalog"
WAITS_SOFTWARE = "software"
"""What a parked event waits on besides links: an edited catalog, or a newer release that can read it."""


class EventResult(NamedTuple):
    """The result of one event or change.

    Attributes:
        topic: the topic; "" if none was read.
        version: the topic's version afterwards, microseconds since 1970; 0 if no topic was read.
        waits: what a parked event waits on: link subjects, WAITS_CATALOG or WAITS_SOFTWARE.
        keeps_body: whether the inbox may keep the event's body once it is done.
    """

    outcome: Outcome
    reason: str = ""
    topic: str = ""
    version: int = 0
    waits: tuple[str, ...] = ()
    keeps_body: bool = True


_TELLING = (Outcome.APPLIED, Outcome.PARKED, Outcome.CONFLICT, Outcome.UNCHANGED, Outcome.REFUSED, Outcome.DUPLICATE)


def most_telling(results: Sequence[EventResult]) -> EventResult:
    """Return the result that stands for all events of one delivery: the first that changed something, if any did."""
    rank = {outcome: index for index, outcome in enumerate(_TELLING)}
    return min(results, key=lambda result: rank.get(result.outcome, len(rank)))


ERASED_REASON = "the tenant was erased"
"""The reason of every result about an erased tenant."""

ERASED = EventResult(Outcome.IGNORED, ERASED_REASON, keeps_body=False)
"""The result of an event of an erased tenant."""


def revival_of(topic: str) -> str:
    """Return what the parked events of an erased tenant that pays again wait on."""
    return f"revival:{topic}"


OTHER_SOFTWARE = EventResult(Outcome.IGNORED, "other software sells it, by the catalog's [ignore]", keeps_body=False)
"""The result of an event of a subscription that other software on the provider account sells."""

MOVED = EventResult(Outcome.REFUSED, "its subscription has just moved to another tenant")
"""The result of an event at the tenant that its subscription has left; the event is resolved again."""


OTHER_ACCOUNT = "an event of another merchant's account"
"""The beginning of the reason of an event of a connected account that is not configured; the account follows."""


class ChangeRejected(CodedError):
    """A requested change of a tenant cannot be made: `code` is stable, `detail` is for people."""
