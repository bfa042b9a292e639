"""The contract of a billing provider: a `WebhookAdapter` reads what it sends (pure), a `ProviderClient` asks it.

It fits providers that order nothing, sign in their own way, or send thin events without a body: `Event.subscription` is
optional, and the adapter makes `Event.order` from whatever the provider gives.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sync.billing.domain.model import Event, Item, Unparsable
from sync.core.errors import SyncError


@dataclass(frozen=True, slots=True)
class Secret:
    """One signing secret and the environment that it stands for; providers often name none in the body."""

    environment: str
    value: bytes

    def __repr__(self) -> str:
        return f"Secret({self.environment!r}, ...)"


@dataclass(frozen=True, slots=True)
class Verified:
    """The body was signed by the provider with a secret of this environment."""

    environment: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """The signature header is missing or cannot be read; `problem` says why."""

    problem: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """No configured secret made this signature."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The signature is genuine, but its time is `skew_s` from our clock (positive: in our past), beyond the tolerance.

    That is about clocks or a replay, never about a wrong secret.
    """

    skew_s: int


Verification = Verified | Malformed | Invalid | Expired


class WebhookAdapter(Protocol):
    """One provider's pure half."""

    name: str

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return who signed the raw bytes of a delivery. Never raises: the input is anybody's."""
        ...

    def parse(self, body: bytes, environment: str) -> Event | Unparsable:
        """Return the event in a verified body. Never raises. Types that say nothing of entitlements are events too."""
        ...


class ProviderUnavailable(SyncError):
    """The provider could not be asked: it is away, slow, or the rate budget is used up. `reason` says which.

    `retry_s`: before so long it is of no use to ask again; 0 where that is not known.
    """

    def __init__(self, reason: str, retry_s: float = 0.0) -> None:
        super().__init__(reason, retry_s)
        self.reason = reason
        self.retry_s = retry_s

    def __str__(self) -> str:
        return f"the provider could not be asked: {self.reason}"


class ProviderRejected(SyncError):
    """The provider was asked and said no: `code` is its own word for why (`not_found` for what it does not have)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One event as the provider's list of events has it: its id and a body that `WebhookAdapter.parse` reads."""

    event_id: str
    occurred_ns: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ListedSubscription:
    """One subscription in the provider's list.

    `event` is the subscription as fetched, or None where `problem` says why it cannot be read. `body` is the same as an
    event with the id `event_id`, in a form that `WebhookAdapter.parse` reads: kept until the subscription can be used.
    """

    subscription_id: str
    event_id: str
    body: bytes
    event: Event | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """One page of the provider's subscriptions. `following`: the `after` of the next one, "" behind the last.

    `total`: how many there are on all pages, about; None where the provider does not tell.
    """

    entries: Sequence[ListedSubscription]
    following: str
    total: int | None = None


LISTED = "listed"
"""The last word of the type of an event that no provider sent: a subscription out of its list."""


def listed_id(subscription_id: str, entry: bytes) -> str:
    """Return the event id of a list's entry with these bytes: another body of the subscription is another event."""
    named = f"{subscription_id}_" if re.fullmatch(r"[\x21-\x7e]{1,100}", subscription_id) else ""
    return f"{LISTED}_{named}{hashlib.sha256(entry).hexdigest()[:16]}"


class ProviderClient(Protocol):
    """One environment of a provider, asked. What `patience_s` does not suffice for is ProviderUnavailable.

    Every method raises ProviderUnavailable and ProviderRejected. A fetched `Event` has the type FETCHED and an order
    that says when its fetch began; `background` calls leave a part of the rate budget to others.
    """

    async def fetch(self, subscription_id: str, patience_s: float, *, background: bool = False) -> Event:
        """Return the subscription as the provider has it, by a request begun after this call."""
        ...

    async def change_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> Event:
        """Return the subscription with its items replaced by these."""
        ...

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> Mapping[str, object]:
        """Return what the provider says such a change would cost and make; nothing is changed."""
        ...

    async def events(self, after: str, since_ns: int, patience_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return events behind the id `after` (or, without one, since an instant), oldest first, and if more follow."""
        ...

    async def subscriptions(self, after: str, patience_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions, ended ones too, behind the one whose id is `after` ("": the first)."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
