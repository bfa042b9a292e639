"""Amounts of money in one form for all providers: a quote of a change, and a bill. Pure.

An amount is an integer of minor units of its currency. None stands for "the provider does not say", never for zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sync.core import instants

AMOUNT_MAX = 2**53 - 1
"""Maximum of an amount: what a JavaScript number holds exactly."""

LINES_MAX = 250
"""Maximum lines of a bill. The lines of a longer one count as not known."""

EXPONENTS: Mapping[str, int] = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
"""Currency -> decimal digits of its minor unit by ISO 4217, if they are not 2."""

LINE_AMOUNTS = ("subtotal", "discount", "tax", "total")
BILL_AMOUNTS = (*LINE_AMOUNTS, "credit", "credit_to_balance")


class Line(NamedTuple):
    """One line of a bill.

    Attributes:
        price_id: None for a line without a price, as a charge that was written by hand.
        subtotal: before discount and tax.
        total: after both; negative for a credit.
        proration: whether it is for a part of a period.
    """

    price_id: str | None = None
    quantity: int | None = None
    subtotal: int | None = None
    discount: int | None = None
    tax: int | None = None
    total: int | None = None
    proration: bool = False

    def document(self) -> dict[str, object]:
        """Return the line as a JSON document, without what is not known."""
        return {name: value for name, value in self._asdict().items() if value is not None and value is not False}


class Bill(NamedTuple):
    """A bill, or a quote of one.

    Attributes:
        lines: None if they are not known.
        subtotal: before discount and tax.
        total: after both, before credits.
        credit: what the customer's credits pay of it.
        credit_to_balance: what is left of them, or of a negative total, for later bills.
        due: what is left to pay.
    """

    lines: tuple[Line, ...] | None = None
    subtotal: int | None = None
    discount: int | None = None
    tax: int | None = None
    total: int | None = None
    credit: int | None = None
    credit_to_balance: int | None = None
    due: int | None = None

    def document(self, due: str) -> dict[str, Any]:
        """Return the bill as a JSON document, without what is not known; `due` names the amount to pay."""
        found: dict[str, Any] = {} if self.lines is None else {"lines": [line.document() for line in self.lines]}
        amounts = {name: getattr(self, name) for name in BILL_AMOUNTS} | {due: self.due}
        return found | {name: value for name, value in amounts.items() if value is not None}

    @classmethod
    def of(cls, document: Mapping[str, Any], due: str) -> Bill:
        """Return the bill that `document` wrote."""
        lines = document.get("lines")
        amounts = {name: document.get(name) for name in BILL_AMOUNTS}
        return cls(None if lines is None else tuple([Line(**line) for line in lines]), **amounts, due=document.get(due))

    @property
    def units(self) -> Mapping[str | None, int | None] | None:
        """What is billed for whole periods: price -> units of all its lines; None if the lines are not known.

        Stripe bills each tier of a graduated price in a line of its own.
        """
        if self.lines is None:
            return None
        found: dict[str | None, int | None] = {}
        for line in self.lines:
            if not line.proration:
                found[line.price_id] = total((found.get(line.price_id, 0), line.quantity))
        return found


NOT_KNOWN = Bill()

NOTHING_BILLED = Bill((), 0, 0, 0, 0, 0, 0, 0)
"""The bill of a change that is known to bill nothing."""


@dataclass(frozen=True, slots=True)
class Money:
    """What a change costs, by the preview of the provider.

    Attributes:
        currency: three capital letters (ISO 4217).
        exponent: decimal digits of its minor unit, as the provider counts them.
        now: what is billed at once.
        next: what is billed at the next renewal; None if that is not known, or there is none.
        next_ns: the instant of the next renewal.
        at_ns: the instant that the amounts hold for: a part of a period costs less every minute.
    """

    currency: str
    exponent: int
    now: Bill = NOT_KNOWN
    next: Bill | None = None
    next_ns: int | None = None
    at_ns: int | None = None

    def document(self) -> dict[str, Any]:
        """Return the quote as a JSON document, without what is not known. What is billed at once is its top level."""
        found = {"currency": self.currency, "exponent": self.exponent, **self.now.document("due_now")}
        if self.at_ns is not None:
            found["at"] = instants.text(self.at_ns)
        following = {} if self.next is None else self.next.document("amount")
        if self.next_ns is not None:
            following["at"] = instants.text(self.next_ns)
        return found | ({"next": following} if following else {})

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Money:
        """Return the quote that `document` wrote."""
        following = document.get("next")
        return cls(
            document["currency"],
            document["exponent"],
            Bill.of(document, "due_now"),
            None if following is None else Bill.of(following, "amount"),
            _instant(following or {}),
            _instant(document),
        )


CHANGE, RENEWAL = "change", "renewal"
"""Why a subscription was billed: its items were changed, or a period has begun."""


class Billed(NamedTuple):
    """A bill that the provider has made for a subscription.

    Attributes:
        id: of the transaction or invoice.
        reason: CHANGE or RENEWAL.
        at_ns: when it was made.
    """

    id: str
    subscription_id: str
    reason: str
    currency: str
    at_ns: int
    bill: Bill


def currency_of(value: object) -> str | None:
    """Return the currency of a provider's object in capital letters; None if it names none."""
    return value.upper() if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isalpha() else None


def exponent(currency: str, own: Mapping[str, int] | None = None) -> int:
    """Return the decimal digits of a currency's minor unit. `own`: those that the provider counts otherwise."""
    return (own or {}).get(currency, EXPONENTS.get(currency, 2))


def amount(value: object) -> int | None:
    """Return an amount, given as a whole number or its decimal digits; None if it is anything else."""
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 17:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -AMOUNT_MAX <= value <= AMOUNT_MAX else None


def total(values: Iterable[int | None]) -> int | None:
    """Return the sum of amounts; None if one is not known."""
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _instant(document: Mapping[str, Any]) -> int | None:
    return instants.parse(document["at"]) if "at" in document else None
