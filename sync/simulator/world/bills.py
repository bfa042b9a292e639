"""Prices, and bills of them in minor units of USD, with discount and tax. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

WHOLE_BP = 10_000
"""All of an amount, in basis points."""


def share(amount: int, part: int, whole: int) -> int:
    """Return `part` of `whole` of an amount, rounded half up."""
    return (2 * amount * part + whole) // (2 * whole)


class Terms(NamedTuple):
    """By what a bill's lines are reduced and taxed, in basis points."""

    discount_bp: int = 0
    tax_bp: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """A price of the catalog, monthly or, if not `recurring`, paid once. `amount`: minor units of USD per unit."""

    id: str
    product_id: str
    name: str
    amount: int
    recurring: bool = True


@dataclass(frozen=True, slots=True)
class Discount:
    """A discount on all bills of a subscription that are made before `ends_us`; None for never."""

    id: str
    rate_bp: int
    starts_us: int
    ends_us: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill.

    `amount`: before discount and tax, which are in basis points. `rate`: the part of a period that it is for, as 0.5;
    None for a whole one.
    """

    price: Price
    quantity: int
    amount: int
    rate: str | None = None
    discount_bp: int = 0
    tax_bp: int = 0

    @property
    def discount(self) -> int:
        """Return what is taken off."""
        return share(self.amount, self.discount_bp, WHOLE_BP)

    @property
    def tax(self) -> int:
        """Return the tax on the rest."""
        return share(self.amount - self.discount, self.tax_bp, WHOLE_BP)

    @property
    def total(self) -> int:
        """Return what is to pay."""
        return self.amount - self.discount + self.tax


@dataclass(frozen=True, slots=True)
class Bill:
    """What is charged, and what is credited against it, in minor units."""

    lines: tuple[Line, ...] = ()
    credit: int = 0

    @property
    def subtotal(self) -> int:
        """Return the sum of the lines, before discount and tax."""
        return sum(line.amount for line in self.lines)

    @property
    def total(self) -> int:
        """Return the sum of the lines, after discount and tax."""
        return sum(line.total for line in self.lines)

    @property
    def due(self) -> int:
        """Return the amount that the customer pays."""
        return max(self.total - self.credit, 0)

    @property
    def to_balance(self) -> int:
        """Return the rest of the credit, which later bills use."""
        return max(self.credit - self.total, 0)

    def under(self, terms: Terms) -> Bill:
        """Return the bill with a discount and a tax on its lines."""
        lines = [replace(line, discount_bp=terms.discount_bp, tax_bp=terms.tax_bp) for line in self.lines]
        return replace(self, lines=tuple(lines))

    def joined(self, other: Bill) -> Bill:
        """Return both in one bill."""
        return Bill((*self.lines, *other.lines), self.credit + other.credit)


NOTHING = Bill()
