"""What is bought once, and money that goes back: a turn and a payment in, a new world and its events out. Pure.

Source of the adjustments: developer.paddle.com/build/transactions/create-transaction-adjustments. A refund waits for
its approval, and is approved at once here. A chargeback counts from its creation; if it is won, it is reversed, and a
`chargeback_reverse` is created.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sync.simulator.world import ids, offers
from sync.simulator.world.errors import ControlError
from sync.simulator.world.model import Adjusting, Adjustment, AdjustmentStatus, Item, Line, Purchase, Transaction, World
from sync.simulator.world.rules import Lines, check_lines
from sync.simulator.world.turn import Outcome, Turn, invoice_number

PURCHASES_MAX = 10_000
"""Maximum purchases of a world."""


def buy(turn: Turn, env: str, tenant: str, lines: Lines, linked: bool) -> Outcome:
    """Pay for `lines` once. The event is `transaction.completed`, without a subscription.

    Args:
        turn: the turn.
        env: the environment.
        tenant: the tenant.
        lines: prices that do not recur, and quantities.
        linked: whether custom_data has the tenant, as an application's checkout should.

    Raises:
        ApiError: a quantity is out of range.
        ControlError: the world is full.
    """
    if len(turn.world.purchases) >= PURCHASES_MAX:
        raise ControlError(409, "too_many", f"the simulator holds at most {PURCHASES_MAX} purchases")
    check_lines(lines)
    at_us, transaction_id, owner = turn.stamp(), turn.new_id("txn"), f"{env}/{tenant}"
    items = tuple(Item(price, quantity, at_us, at_us, at_us) for price, quantity in lines)
    bill = offers.monthly(items)
    payment = Transaction(
        id=transaction_id,
        env=env,
        invoice_id=turn.new_id("inv"),
        invoice_number=invoice_number(transaction_id),
        subscription_id=None,
        customer_id=ids.derived("ctm", owner),
        address_id=ids.derived("add", owner),
        origin="web",
        items=items,
        amount=bill.due,
        period=None,
        at_us=at_us,
        custom_data={"tenant_id": tenant} if linked else None,
        bill=bill,
    )
    return turn.bought(Purchase(tenant, payment))


def refundable(world: World, payment: Transaction) -> int:
    """Return how much of a payment can still go back."""
    return payment.amount - world.taken_back(payment)


def open_chargeback(world: World, payment: Transaction) -> Adjustment | None:
    """Return the chargeback of a payment that is not won; None if there is none."""
    found = (each for each in world.adjustments_of(payment) if each.action == "chargeback")
    return next((each for each in found if each.status == "approved"), None)


def refund(turn: Turn, payment: Transaction, amount: int | None) -> Outcome:
    """Refund a payment. `amount`: minor units; None for all that is left of it.

    Raises:
        ControlError: less is left.
    """
    asked = _adjustment(turn, payment, "refund", "pending_approval", amount)
    approved = replace(asked, status="approved", updated_us=turn.stamp())
    return turn.adjusted(payment, ("created", asked), ("updated", approved))


def charge_back(turn: Turn, payment: Transaction) -> Outcome:
    """Have the customer's bank take back all that is left of a payment.

    Raises:
        ControlError: nothing is left.
    """
    return turn.adjusted(payment, ("created", _adjustment(turn, payment, "chargeback", "approved", None)))


def win(turn: Turn, payment: Transaction) -> Outcome:
    """Win the payment's chargeback: the money comes again.

    Raises:
        ControlError: there is no chargeback of it.
    """
    lost = open_chargeback(turn.world, payment)
    if lost is None:
        raise ControlError(409, "no_chargeback", f"payment {payment.id} has no chargeback; use chargeback")
    over = replace(lost, status="reversed", updated_us=turn.stamp())
    at_us = turn.stamp()
    won = replace(
        lost, id=turn.new_id("adj"), action="chargeback_reverse", status="approved", created_us=at_us, updated_us=at_us
    )
    return turn.adjusted(payment, ("updated", over), ("created", won))


def _adjustment(
    turn: Turn, payment: Transaction, action: Adjusting, status: AdjustmentStatus, amount: int | None
) -> Adjustment:
    left = refundable(turn.world, payment)
    if left <= 0:
        raise ControlError(409, "nothing_left", f"all of payment {payment.id} has gone back")
    if amount is not None and amount > left:
        raise ControlError(409, "too_much", f"{left} of payment {payment.id} can go back, not {amount}")
    taken, at_us = amount or left, turn.stamp()
    return Adjustment(
        id=turn.new_id("adj"),
        env=payment.env,
        action=action,
        status=status,
        transaction_id=payment.id,
        subscription_id=payment.subscription_id,
        customer_id=payment.customer_id,
        amount=taken,
        is_full=taken == payment.amount,
        created_us=at_us,
        updated_us=at_us,
        lines=_parts((payment.bill or offers.monthly(payment.items)).lines, taken),
    )


def _parts(lines: Sequence[Line], amount: int) -> tuple[Line, ...]:
    """Return the lines with what goes back of each, the first first; the last one has the rest."""
    parts = []
    for place, line in enumerate(lines, 1):
        part = amount if place == len(lines) else min(line.total, amount)
        amount -= part
        parts.append(replace(line, amount=part, discount_bp=0, tax_bp=0))
    return tuple(parts)
