"""The quotes of one subscription and the bills that were compared with them, without a store."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from sync.billing.domain.facts.drift import Drift, money_drift
from sync.billing.domain.money.model import Billed, Money
from sync.billing.domain.money.quote import Quote, quote_of


class Ledger:
    """What `storage.quoted` keeps.

    Attributes:
        kept: the quotes in the order of their confirmation.
        claims: (preview id, reason) -> the bill that was compared with the quote.
        drifts: what differed.
    """

    def __init__(self) -> None:
        """Begin without quotes."""
        self.kept: list[Quote] = []
        self.claims: dict[tuple[str, str], str] = {}
        self.drifts: list[Drift] = []

    def confirm(self, money: Money, at_ns: int) -> Quote:
        """Keep a quote, as it is stored and read again."""
        money = Money.of(orjson.loads(orjson.dumps(money.document())))
        quote = Quote(f"pv_{len(self.kept)}", "tenant:acme", money, at_ns)
        self.kept.append(Quote.decode(quote.encode()))
        return self.kept[-1]

    def bill(self, *bills: Billed) -> None:
        """Compare bills, each once."""
        for billed in bills:
            quote = quote_of(billed, self.kept, self.claims)
            if quote is None or (quote.preview_id, billed.reason) in self.claims:
                continue
            self.claims[quote.preview_id, billed.reason] = billed.id
            drift = money_drift(quote, billed, 1)
            self.drifts += [] if drift is None else [drift]

    def compared(self, reason: str) -> list[str]:
        """Return the quotes that a bill of this reason was compared with."""
        return [preview_id for preview_id, of in self.claims if of == reason]


def dearer(bills: Iterable[Billed], id: str, by: int) -> list[Billed]:
    """Return the bills with one of them changed."""
    return [
        billed._replace(bill=billed.bill._replace(due=(billed.bill.due or 0) + by)) if billed.id == id else billed
        for billed in bills
    ]
