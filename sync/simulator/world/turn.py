"""One action's working copy of the world: stamps, collects the events, and becomes an outcome. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sync.simulator.world.model import Event, Subscription, Transaction, World

EVENTS_KEPT = 1_000
"""How many events the world remembers, the newest ones; list-events reads these."""

NewId = Callable[[str, int], str]
"""Makes an id from a prefix and an instant; see `ids.Mint`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The world after an action, the subscription it was about, and what there is to tell, oldest first."""

    world: World
    subscription: Subscription
    events: tuple[Event, ...]


class Turn:
    """The working copy: rising stamps, new ids, and the events so far."""

    def __init__(self, world: World, now_us: int, new_id: NewId) -> None:
        self._subscriptions = dict(world.subscriptions)
        self._before = world.events
        self._told: list[Event] = []
        self._stamp_us = world.stamp_us
        self._now_us = now_us
        self._new_id = new_id

    def stamp(self) -> int:
        """Now, or a microsecond after the last stamp where the clock has not moved."""
        self._stamp_us = max(self._stamp_us + 1, self._now_us)
        return self._stamp_us

    def new_id(self, prefix: str) -> str:
        """Return a new id of this kind."""
        return self._new_id(prefix, self._now_us)

    def tell(self, kind: str, data: Subscription | Transaction, transaction_id: str | None = None) -> None:
        """Add an event."""
        at_us = self.stamp()
        self._told.append(Event(self._new_id("evt", at_us), data.env, kind, at_us, data, transaction_id))

    def tell_paid(self, of: Subscription, amount: int, origin: str, transaction_id: str | None = None) -> None:
        """Tell of a completed payment; its id is made here unless the subscription's creation already named it."""
        identity = transaction_id or self.new_id("txn")
        self.tell(
            "transaction.completed",
            Transaction(
                id=identity,
                env=of.env,
                invoice_id=self.new_id("inv"),
                invoice_number=f"{int.from_bytes(identity.encode()[-4:], 'big') % 90_000 + 10_000}-10001",
                subscription_id=of.id,
                customer_id=of.customer_id,
                address_id=of.address_id,
                origin=origin,
                items=of.items,
                amount=amount,
                period=of.period,
                at_us=self.stamp(),
                custom_data=of.custom_data,
            ),
        )

    def done(self, subscription: Subscription) -> Outcome:
        """Return the outcome: the world with this subscription and the events."""
        self._subscriptions[subscription.id] = subscription
        events = (*self._before, *self._told)[-EVENTS_KEPT:]
        return Outcome(World(self._subscriptions, events, self._stamp_us), subscription, tuple(self._told))
