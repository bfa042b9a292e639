"""The contract of a provider's webhooks: a `WebhookAdapter` verifies and reads them. Pure.

Some providers deliver in no order, sign in their own way, or send thin events without a body. So `Event.subscription`
is optional, and the adapter derives `Event.order` from the fields that the provider sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sync.billing.domain.facts.model import Event, Unparsable


@dataclass(frozen=True, slots=True)
class Secret:
    """One signing secret and its environment, which webhook bodies often do not name."""

    environment: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """The body was signed by the provider with a secret of this environment.

    `event_id` is the event's id if it is in the signed headers, and not in the body; else "".
    """

    environment: str
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """The signature header is missing or cannot be read; `problem` says why."""

    problem: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """No configured secret made this signature."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The signature is genuine, but its time differs from our clock by `skew_s` (positive: past), beyond the tolerance.

    The cause is a wrong clock or a replay, never a wrong secret.
    """

    skew_s: int


Verification = Verified | Malformed | Invalid | Expired


class WebhookAdapter(Protocol):
    """Reads one provider's webhooks. Pure.

    Attributes:
        name: the provider's name in the registry.
        has_coarse_clock: whether several events of one subscription can have the same time, and their ids have no order
            (times in whole seconds). Then `Event.step` is set.
        sells_products: whether a subscription buys a product, so that a plan change names a product instead of a price.
    """

    name: str
    has_coarse_clock: bool
    sells_products: bool

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return the result of checking the signature of the raw bytes. Never raises: the input is untrusted."""

    def split(self, body: bytes, event_id: str) -> Sequence[tuple[str, bytes]]:
        """Return the events in a verified body, each as its id and a body for `parse`. Never raises.

        Most providers send one event at a time: the body as it is.

        Args:
            event_id: see `parse`.
        """

    def parse(self, body: bytes, environment: str, event_id: str = "") -> Event | Unparsable:
        """Return the event in a verified body. Never raises. Types that do not affect entitlements are events too.

        Args:
            event_id: the id of an event whose body has none: that of the signed headers (`Verified`).
        """
