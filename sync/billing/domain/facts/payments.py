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
        subscription_id: of the subscription whose payment it is a part of; "" if it was bought by itself.
    """

    bought_ns: int
    total: int | None = None
    currency: str = ""
    invoice_id: str = ""
    subscription_id: str = ""


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
    """A chargeback that was won, or a refund that failed after all: the money stays."""


class Refund(NamedTuple):
    """Money that goes back for one payment, as the newest event about it shows it. The greater place is newer.

    Attributes:
        place: the time of the newest event, what orders the events of one instant, and the event's id.
        id: the provider's, of the adjustment, dispute or refunded payment.
        made_ns: when it was made.
        amount: None if the provider does not say.
        is_full: whether the provider says that it is the whole payment.
        is_of_subscription: whether the payment is a subscription's.
        part_of: the id of the refund that shows the sum of this one and others; "" if it counts by itself.
        payment_id: of the payment, which may have bought one-time items beside the subscription; "" if it has none.
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
    part_of: str = ""
    payment_id: str = ""


def is_paid_back(refunds: Iterable[Refund], total: int | None) -> bool:
    """Return whether all of a payment went back. It depends on the set of the refunds alone.

    A won chargeback is shown by its own status, by a reversal, or by both.

    Args:
        total: what was paid. If that is not known, only what the provider calls full counts.
    """
    decided = [refund for refund in refunds if refund.status is not RefundStatus.PENDING]
    sums = dict.fromkeys(RefundKind, 0)
    reversed_sum = 0
    for refund in decided:
        amount = _amount(refund, total)
        sums[refund.kind] += amount
        if refund.status is RefundStatus.REVERSED and refund.kind is RefundKind.CHARGEBACK:
            reversed_sum += amount
    charged_back = sums[RefundKind.CHARGEBACK] - max(sums[RefundKind.REVERSAL], reversed_sum)
    refunded = _refunded([refund for refund in decided if refund.kind is RefundKind.REFUND], total)
    return refunded + max(charged_back, 0) >= (total or 1)


def _amount(refund: Refund, total: int | None) -> int:
    """Return what counts of an amount, at most the total; if that is not known, 1 for all and 0 for a part."""
    whole = total or 1
    return whole if refund.is_full else min(refund.amount or 0, whole) if total else 0


def _refunded(refunds: Iterable[Refund], total: int | None) -> int:
    """Return the sum of the refunds that have not failed.

    A provider may show refunds one by one, as a sum that only grows, or both: a sum counts without the parts of it that
    have failed since, and at least as much as its parts.
    """
    parts: dict[str, list[Refund]] = {}
    sums: dict[str, Refund] = {}
    for refund in refunds:
        if refund.part_of:
            parts.setdefault(refund.part_of, []).append(refund)
        elif refund.status is RefundStatus.APPROVED:
            sums[refund.id] = refund
    result = 0
    for id in {*parts, *sums}:
        each, whole = parts.get(id, []), sums.get(id)
        approved = sum(_amount(one, total) for one in each if one.status is RefundStatus.APPROVED)
        if whole is not None:
            failed = [one for one in each if one.status is RefundStatus.REVERSED and one.place > whole.place]
            # Of an unknown total, a part that failed leaves less than all.
            less = sum(_amount(one, total) for one in failed) if total else len(failed)
            approved = max(approved, _amount(whole, total) - less)
        result += approved
    return result
