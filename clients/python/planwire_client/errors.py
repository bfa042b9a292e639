"""Every exception of the package. Expected outcomes (a conflict, a stale order token) are return values.

PlanwireError
    PublishRefused      the publish itself is wrong, or may not be made
    Unavailable         nothing is known of the outcome: try again with the same event id
        RateLimited     the publish key's rate is used up for longer than the call may wait
    ReplicaError
        NotCurrent      what is held cannot be proved to be the newest
        FeatureDenied   it is the newest, and the feature is not in it
        TopicRefused    the token does not open the topic
        ReplicaClosed   every connection has ended for good
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planwire_client.change import Published, Rejected


class PlanwireError(Exception):
    """The root of the package's exceptions."""


@dataclass(eq=False, repr=False)
class PublishRefused(PlanwireError):
    """The gateway, or the check before the store, will not take it; sending it again changes nothing.

    Attributes:
        code: stable, such as topic_invalid, state_too_large, key_invalid.
        status: the HTTP status, 0 where no gateway was asked.
    """

    code: str
    detail: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@dataclass(eq=False, repr=False)
class Unavailable(PlanwireError):
    """No answer within the attempts and the time allowed. It may have happened: publish again with the same event ids.

    Attributes:
        attempts: how often it was sent.
        event_ids: of the items without an outcome.
        outcomes: in the order of the call; None for those unknown.
    """

    detail: str
    attempts: int
    event_ids: Sequence[str]
    outcomes: Sequence[Published | Rejected | None] = ()

    def __str__(self) -> str:
        return f"{self.detail} (after {self.attempts} attempts)"


@dataclass(eq=False, repr=False)
class RateLimited(Unavailable):
    """As above, and the last answer was 429. `retry_after_s`: the pause that the gateway asked for."""

    retry_after_s: float = 0.0


@dataclass(eq=False, repr=False)
class ReplicaError(PlanwireError):
    """The root of what reading can raise. `topic`: the one asked for; empty for all."""

    topic: str
    detail: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.detail}" if self.topic else self.detail


class NotCurrent(ReplicaError):
    """What is held cannot be proved to be the newest.

    Attributes:
        reason: unknown (nothing is held), stale (the gateway has not vouched for it) or behind (older than asked for).
        version: the one held, 0 for none.
    """

    def __init__(self, topic: str, reason: str, version: int) -> None:
        super().__init__(topic, f"not proved to be current ({reason}); version {version} is held")
        self.reason = reason
        self.version = version


class FeatureDenied(ReplicaError):
    """The state does not have the feature. `version`: the state's."""

    def __init__(self, topic: str, feature: str, version: int) -> None:
        super().__init__(topic, f"{feature} is not in version {version}")
        self.feature = feature
        self.version = version


class TopicRefused(ReplicaError):
    """Neither the token nor a fresh one opens the topic. `reason`: forbidden, revoked, expired or erased."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(topic, f"the token does not open it ({reason})")
        self.reason = reason


class ReplicaClosed(ReplicaError):
    """Closed by this process (code 0), or by the gateway for good. `code`: the close code or HTTP status."""

    def __init__(self, topic: str, code: int, reason: str) -> None:
        super().__init__(topic, f"closed ({code} {reason})" if code else "closed")
        self.code = code
        self.reason = reason
