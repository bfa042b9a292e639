"""What a billing provider must offer. One module per provider: pure verification, parsing and normalisation.

The contract fits providers that order nothing, sign in their own way, and may send thin events without a body:
`Event.subscription` is optional, `Event.order` is made by the adapter of whatever the provider gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sync.billing.model import Event


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


@dataclass(frozen=True, slots=True)
class Unparsable:
    """A genuine body that is no event we can read; `event_id` is the body's own or derived from its bytes."""

    event_id: str
    type: str
    problem: str


class Adapter(Protocol):
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
