"""The quote of a confirmed change, kept until it is billed, and what a bill differs in. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson

from sync.billing.domain.money.differences import Difference, from_quoted
from sync.billing.domain.money.model import CHANGE, RENEWAL, Billed, Money

HOUR_NS = 3_600 * 1_000_000_000

CHANGED_WITHIN_NS = HOUR_NS
"""How long after its confirmation a change may be billed at once."""

CLOCK_SLACK_NS = 30 * 1_000_000_000
"""By how much the provider's clock may be behind ours."""

RENEWED_WITHIN_NS = 48 * HOUR_NS
"""How long after the quoted instant a renewal may be billed."""

DELIVERED_WITHIN_S = 3 * 86_400
"""How long a provider tries to deliver a webhook."""

KEPT_MAX_S = 400 * 86_400
"""Maximum age of a quote: the renewal of a yearly plan is in it."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What was quoted for the change of a subscription that was confirmed at `confirmed_ns`."""

    preview_id: str
    topic: str
    money: Money
    confirmed_ns: int

    def encode(self) -> bytes:
        """Return the quote as JSON."""
        ours = {"preview_id": self.preview_id, "topic": self.topic, "confirmed_ns": self.confirmed_ns}
        return orjson.dumps({**ours, "money": self.money.document()})

    @classmethod
    def decode(cls, value: bytes) -> Quote:
        """Return the quote that `encode` wrote."""
        found: dict[str, Any] = orjson.loads(value)
        return cls(found["preview_id"], found["topic"], Money.of(found["money"]), found["confirmed_ns"])

    def of_topic(self, topic: str) -> Quote:
        """Return the quote for another tenant, which the subscription was moved to."""
        return replace(self, topic=topic)

    def kept_s(self, now_ns: int) -> int:
        """Return for how many seconds from now it can be compared."""
        last_ns = self.confirmed_ns + CHANGED_WITHIN_NS
        if self.money.next is not None and self.money.next_ns is not None:
            last_ns = max(last_ns, self.money.next_ns + RENEWED_WITHIN_NS)
        return min(max(0, last_ns - now_ns) // 1_000_000_000 + DELIVERED_WITHIN_S, KEPT_MAX_S)

    def is_of(self, billed: Billed) -> bool:
        """Return whether a bill is one that was quoted: of the change, or of the renewal after it.

        A renewal of other units than quoted is of another, later change.
        """
        if billed.reason == CHANGE:
            return -CLOCK_SLACK_NS <= billed.at_ns - self.confirmed_ns <= CHANGED_WITHIN_NS
        following, next_ns = self.money.next, self.money.next_ns
        if billed.reason != RENEWAL or following is None or next_ns is None or following.units is None:
            return False
        is_then = -HOUR_NS <= billed.at_ns - next_ns <= RENEWED_WITHIN_NS
        return is_then and billed.at_ns > self.confirmed_ns and following.units == billed.bill.units

    def differences(self, billed: Billed) -> list[Difference]:
        """Return how a bill that it `is_of` differs from it."""
        currency = {"currency": self.money.currency}
        is_change = billed.reason == CHANGE
        quoted, due = (self.money.now, "due_now") if is_change else (self.money.next, "amount")
        assert quoted is not None
        there = {"currency": billed.currency, **billed.bill.document(due)}
        return from_quoted({**currency, **quoted.document(due)}, there)
