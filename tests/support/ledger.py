"""The quotes of one subscription and the bills that were compared with them, without a store."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from hypothesis import assume, strategies as st

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

    @property
    def due(self) -> list[str]:
        """The quotes of which something is due at once."""
        return [quote.preview_id for quote in self.kept if quote.money is not None and quote.money.now.due]

    def compared(self, reason: str) -> list[str]:
        """Return the quotes that a bill of this reason was compared with."""
        return [preview_id for preview_id, of in self.claims if of == reason]


def assert_that_one_that_differs_is_found(ledger: Ledger, bills: list[Billed], by: int, data: st.DataObject) -> None:
    """Change one of the bills that are compared, and find it."""
    ledger.bill(*bills)
    compared = sorted(ledger.claims.values())
    assume(compared)
    planted = data.draw(st.sampled_from(compared))
    again = Ledger()
    again.kept = ledger.kept
    again.bill(*dearer(bills, planted, by))
    (drift,) = again.drifts
    assert drift.why.endswith(f"billed as {planted}")


def dearer(bills: Iterable[Billed], id: str, by: int) -> list[Billed]:
    """Return the bills with one of them changed."""
    return [
        billed._replace(bill=billed.bill._replace(due=(billed.bill.due or 0) + by)) if billed.id == id else billed
        for billed in bills
    ]
