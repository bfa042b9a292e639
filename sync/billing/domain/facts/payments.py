"""One-time purchases, and money that goes back: refunds and chargebacks. Amounts are in minor units. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Purchase(NamedTuple):
    """What a one-time purchase has beside its items.

    Attributes:
        bought_ns: when it was paid.
        total: what was paid; None if the provider does not say.
        invoice_id: of the invoice that its checkout made, which the provider may report as a purchase of its own.
    """

    bought_ns: int
    total: int | None = None
    currency: str = ""
    invoice_id: str = ""


class RefundKind(StrEnum):
    """How money goes back. The values are stored, so they never change."""

    REFUND = "refund"
    CHARGEBACK = "chargeback"
    REVERSAL = "reversal"
    """A chargeback is won: its money is here again."""


class RefundStatus(StrEnum):
    """Whether it counts. The values are stored, so they never change."""

    PENDING = "pending"
    """Not decided, or rejected: it does not count, or not yet."""
    APPROVED = "approved"
    REVERSED = "reversed"
    """A chargeback that was won."""


class Refund(NamedTuple):
    """Money that goes back for one payment, as the newest event about it shows it. The greater place is newer.

    Attributes:
        place: the time of the newest event, what orders the events of one instant, and the event's id.
        id: the provider's, of the adjustment, dispute or refunded payment.
        made_ns: when it was made.
        amount: None if the provider does not say.
        is_full: whether the provider says that it is the whole payment.
        is_of_subscription: whether the payment is a subscription's.
    """

    place: tuple[int, int, str]
    id: str
    kind: RefundKind
    status: RefundStatus
    made_ns: int
    amount: int | None = None
    currency: str = ""
    is_full: bool = False
    is_of_subscription: bool = False


def is_paid_back(refunds: Iterable[Refund], total: int | None) -> bool:
    """Return whether all of a payment went back. It depends on the set of the refunds alone.

    A won chargeback is shown by its own status, by a reversal, or by both.

    Args:
        total: what was paid. If that is not known, only what the provider calls full counts.
    """
    sums = dict.fromkeys(RefundKind, 0)
    reversed_sum = 0
    for refund in refunds:
        whole = total or 1
        amount = whole if refund.is_full else min(refund.amount or 0, whole) if total else 0
        if refund.status is not RefundStatus.PENDING:
            sums[refund.kind] += amount
        if refund.status is RefundStatus.REVERSED:
            reversed_sum += amount
    charged_back = sums[RefundKind.CHARGEBACK] - max(sums[RefundKind.REVERSAL], reversed_sum)
    return sums[RefundKind.REFUND] + max(charged_back, 0) >= (total or 1)
