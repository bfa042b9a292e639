"""Every exception of the package. Expected outcomes (a conflict, a stale order token) are return values.

PlanwireError
    PublishRefused      the publish is invalid or not allowed
    Unavailable         the outcome is unknown: retry with the same event id
        RateLimited     the publish key's rate is used up for longer than the call may wait
        UsageUnavailable    a call about usage has no answer, and may have been counted: repeat it with the same key
    UsageRefused        the call about usage is invalid or not allowed
    UsageDenied         the units do not fit into the limit, or that is not known and the policy denies them
    ReplicaError
        NotCurrent      the local snapshot cannot be proved to be the newest
        FeatureDenied   the state does not have the feature
        TopicRefused    the token does not grant the topic
        ReplicaClosed   all connections have ended permanently
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planwire_client.change import Published, Rejected
    from planwire_client.usage.answers import Counted


class PlanwireError(Exception):
    """The base class of the package's exceptions."""


@dataclass(eq=False, repr=False)
class PublishRefused(PlanwireError):
    """The publish was rejected by the gateway, or by the check before the store. A retry has the same result.

    Attributes:
        code: a stable code, such as topic_invalid, state_too_large, topic_is_billed.
        status: the HTTP status; 0 without a gateway.
    """

    code: str
    detail: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@dataclass(eq=False, repr=False)
class Unavailable(PlanwireError):
    """No answer within the allowed attempts and time. The publish may have happened: retry with the same event ids.

    Attributes:
        attempts: number of attempts.
        event_ids: the event ids of the items without an outcome.
        outcomes: the outcomes in the order of the call; None for unknown ones.
    """

    detail: str
    attempts: int
    event_ids: Sequence[str]
    outcomes: Sequence[Published | Rejected | None] = ()

    def __str__(self) -> str:
        return f"{self.detail} (after {self.attempts} attempts)"


@dataclass(eq=False, repr=False)
class RateLimited(Unavailable):
    """As `Unavailable`, and the last answer was 429. `retry_after_s`: the pause that the gateway requested."""

    retry_after_s: float = 0.0


@dataclass(eq=False, repr=False)
class UsageUnavailable(Unavailable):
    """As `Unavailable`, of calls about usage.

    Attributes:
        event_ids: the keys of the calls without an outcome.
        counted: the outcomes in the order of the call; None for unknown ones.
        retry_after_s: the pause that the gateway requested, or None.
    """

    counted: Sequence[Counted | UsageRefused | None] = ()
    retry_after_s: float | None = None


@dataclass(eq=False, repr=False)
class UsageRefused(PlanwireError):
    """The gateway has rejected a call about usage, or it was not sent. A retry has the same result.

    Attributes:
        code: a stable code, such as meter_unknown, limit_unknown, key_reused.
        status: the HTTP status; 0 if it was not sent, or was one call of a batch.
    """

    code: str
    detail: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@dataclass(eq=False, repr=False)
class UsageDenied(PlanwireError):
    """The units may not be used, and were not counted.

    Attributes:
        tenant: the tenant's topic.
        amount: the units that were asked for.
        counted: what is used. If its `is_known` is false, Planwire did not answer, and the policy denies.
    """

    tenant: str
    meter: str
    amount: int
    counted: Counted

    def __str__(self) -> str:
        if not self.counted.is_known:
            return f"{self.tenant}: the usage of {self.meter} is not known: {self.counted.reason}"
        return (
            f"{self.tenant}: {self.amount} {self.meter} do not fit: {self.counted.remaining} of "
            f"{self.counted.limit} are left"
        )


@dataclass(eq=False, repr=False)
class ReplicaError(PlanwireError):
    """The base class of errors when reading. `topic`: the requested topic; empty for all topics."""

    topic: str
    detail: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.detail}" if self.topic else self.detail


class NotCurrent(ReplicaError):
    """The local snapshot cannot be proved to be the newest.

    Attributes:
        reason: unknown (no snapshot), stale (not confirmed by the gateway), behind (older than the required version) or
            no_app (the state does not have the application).
        version: the version of the local snapshot, 0 for none.
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
    """Neither the token nor a new one grants the topic. `reason`: forbidden, revoked, expired or erased."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(topic, f"the token does not open it ({reason})")
        self.reason = reason


class ReplicaClosed(ReplicaError):
    """Closed by this process (code 0), or permanently by the gateway. `code`: the close code or HTTP status."""

    def __init__(self, topic: str, code: int, reason: str) -> None:
        super().__init__(topic, f"closed ({code} {reason})" if code else "closed")
        self.code = code
        self.reason = reason
