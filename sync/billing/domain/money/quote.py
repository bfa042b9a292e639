"""What was quoted for a subscription's confirmed changes, kept until it is billed, and what a bill differs in. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sync.billing.domain.money.differences import Difference, from_quoted
from sync.billing.domain.money.model import CHANGE, RENEWAL, Bill, Billed, Money

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

QUOTES_MAX = 8
"""Maximum number kept of a subscription. Beyond it the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What was quoted for the change of a subscription that was confirmed at `confirmed_ns`.

    `money`: None if nothing was quoted. Then a bill of the change is not compared, nor is that of the renewal.
    """

    preview_id: str
    topic: str
    money: Money | None
    confirmed_ns: int

    def encode(self) -> bytes:
        """Return the quote as JSON."""
        ours = {"preview_id": self.preview_id, "topic": self.topic, "confirmed_ns": self.confirmed_ns}
        return orjson.dumps(ours if self.money is None else {**ours, "money": self.money.document()})

    @classmethod
    def decode(cls, value: bytes) -> Quote:
        """Return the quote that `encode` wrote."""
        found: dict[str, Any] = orjson.loads(value)
        money = Money.of(found["money"]) if "money" in found else None
        return cls(found["preview_id"], found["topic"], money, found["confirmed_ns"])

    def of_topic(self, topic: str) -> Quote:
        """Return the quote for another tenant, which the subscription was moved to."""
        return replace(self, topic=topic)

    def kept_s(self, now_ns: int) -> int:
        """Return for how many seconds from now it can be compared."""
        last_ns = self.confirmed_ns + CHANGED_WITHIN_NS
        if self.money is not None and self.money.next is not None and self.money.next_ns is not None:
            last_ns = max(last_ns, self.money.next_ns + RENEWED_WITHIN_NS)
        return min(max(0, last_ns - now_ns) // 1_000_000_000 + DELIVERED_WITHIN_S, KEPT_MAX_S)

    def is_open_for_change(self, now_ns: int) -> bool:
        """Return whether a bill of the change itself can still arrive."""
        return now_ns <= self.confirmed_ns + CHANGED_WITHIN_NS + DELIVERED_WITHIN_S * 1_000_000_000

    def is_of(self, billed: Billed) -> bool:
        """Return whether a bill is one that was quoted: of the change, or of the renewal after it.

        A renewal of other units than quoted is of another, later change.
        """
        if billed.reason == CHANGE:
            return -CLOCK_SLACK_NS <= billed.at_ns - self.confirmed_ns <= CHANGED_WITHIN_NS
        following, next_ns = (None, None) if self.money is None else (self.money.next, self.money.next_ns)
        if billed.reason != RENEWAL or following is None or next_ns is None or following.units is None:
            return False
        is_then = -HOUR_NS <= billed.at_ns - next_ns <= RENEWED_WITHIN_NS
        return is_then and billed.at_ns > self.confirmed_ns and following.units == billed.bill.units

    def differences(self, billed: Billed) -> list[Difference]:
        """Return how a bill that it `is_of` differs from it."""
        quoted, due = self._side(billed.reason)
        if self.money is None or quoted is None:
            return []
        there = {"currency": billed.currency, **billed.bill.document(due)}
        return from_quoted({"currency": self.money.currency, **quoted.document(due)}, there)

    def billed_from_ns(self, reason: str) -> int:
        """Return the earliest instant at which the change or the renewal can be billed."""
        next_ns = self.money.next_ns if reason == RENEWAL and self.money is not None else None
        return self.confirmed_ns - CLOCK_SLACK_NS if next_ns is None else next_ns - HOUR_NS

    def amount(self, reason: str) -> dict[str, object]:
        """Return the amount to pay that was quoted for the change or the renewal, with its currency."""
        quoted, due = self._side(reason)
        if self.money is None or quoted is None:
            return {}
        return {"currency": self.money.currency, due: quoted.due}

    def _side(self, reason: str) -> tuple[Bill | None, str]:
        if self.money is None:
            return None, ""
        return (self.money.now, "due_now") if reason == CHANGE else (self.money.next, "amount")


def quote_of(billed: Billed, kept: Sequence[Quote], claims: Mapping[tuple[str, str], str]) -> Quote | None:
    """Return the quote that a bill is of; None if it is of none.

    It is of the last one that was confirmed before it; of a change, first of one that was quoted so.

    Args:
        claims: (preview id, reason) -> the id of the bill that was compared with the quote.
    """
    kept = sorted(kept, key=lambda quote: quote.confirmed_ns)
    if billed.reason == RENEWAL:
        kept = [quote for quote in kept if quote.confirmed_ns < billed.at_ns][-1:]
    there = {quote: claims.get((quote.preview_id, billed.reason)) for quote in kept if quote.is_of(billed)}
    taken = [quote for quote, bill_id in there.items() if bill_id == billed.id]
    free = [quote for quote, bill_id in there.items() if bill_id is None]
    exact = [quote for quote in free if quote.money is not None and not quote.differences(billed)]
    before = [quote for quote in free if quote.confirmed_ns <= billed.at_ns]
    found = taken or exact[:1] or before[-1:] or free[:1]
    return found[0] if found else None
