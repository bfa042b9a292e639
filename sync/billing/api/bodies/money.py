"""The fields of bodies and answers about money. Amounts are whole minor units of the currency."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from sync.billing.domain.money.model import AMOUNT_MAX, LINES_MAX, currency_of
from sync.billing.providers.parsing import QUANTITY_MAX
from sync.core import instants
from sync.http.fields import TIME, Instant, Model, Text

_Amount = Annotated[int, Field(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]


def _known_form(value: str) -> str:
    if currency_of(value) is None:
        raise ValueError("a currency is three letters, such as EUR")
    return value


_Currency = Annotated[
    str,
    AfterValidator(_known_form),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z]{3}$", "description": "ISO 4217."}),
]
_Time = Annotated[str, Field(json_schema_extra=TIME)]


class Line(Model):
    """One line of a bill. An amount that is not known is absent."""

    price_id: Text | None = Field(None, description="Absent: the line has no price.")
    quantity: int | None = Field(None, ge=0, le=QUANTITY_MAX)
    subtotal: _Amount | None = Field(None, description="Before discount and tax.")
    discount: _Amount | None = None
    tax: _Amount | None = None
    total: _Amount | None = Field(None, description="After both; negative for a credit.")


class QuotedLine(Line):
    """One line of a quoted bill."""

    proration: bool | None = Field(None, description="Whether it is for a part of a period.")


class _Totals(Model):
    subtotal: _Amount | None = Field(None, description="Before discount and tax.")
    discount: _Amount | None = None
    tax: _Amount | None = None
    total: _Amount | None = Field(None, description="After both, before credits.")
    credit: _Amount | None = Field(None, description="What the customer's credits pay of it.")
    credit_to_balance: _Amount | None = Field(None, description="What is credited for later bills.")


Lines = Annotated[list[Line], Field(max_length=LINES_MAX)]


class ExpectedRenewal(_Totals):
    """What the caller expects of the next renewal."""

    lines: Lines | None = None
    amount: _Amount | None = None
    at: Instant | None = Field(None, description="RFC 3339.")


class Expected(_Totals):
    """What the caller expects the change to cost. Only what is given is compared."""

    currency: _Currency | None = None
    lines: Lines | None = Field(
        None, description="What is billed at once: all lines, each with what is to be compared."
    )
    due_now: _Amount | None = Field(None, description="What is left to pay at once.")
    next: ExpectedRenewal | None = None

    def document(self) -> dict[str, Any]:
        """Return what is given, in the form of a quote."""
        found = self.model_dump(exclude_none=True)
        if self.currency is not None:
            found["currency"] = self.currency.upper()
        if self.next is not None and self.next.at is not None:
            found["next"]["at"] = instants.text(self.next.at)
        return found


class QuotedRenewal(_Totals):
    """What is billed at the next renewal."""

    lines: list[QuotedLine] | None = None
    amount: _Amount | None = Field(None, description="What is left to pay then.")
    at: _Time | None = None


class Quoted(_Totals):
    """What a change costs by the provider's own preview. Its top level is what is billed at once."""

    currency: _Currency
    exponent: int = Field(ge=0, le=4, description="Decimal digits of the minor unit: 0 for JPY.")
    at: _Time | None = Field(None, description="The instant that the amounts hold for.")
    lines: list[QuotedLine] | None = None
    due_now: _Amount | None = Field(None, description="What is left to pay at once; 0 if nothing is billed at once.")
    next: QuotedRenewal | None = Field(None, description="Absent: not known, or there is no renewal.")
