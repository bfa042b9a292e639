"""The sort key of an event among the events of its subscription. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CLOCK_SLACK_NS = 5 * 60 * 1_000_000_000
"""How far a body's `updated_at` may lie after its event's `occurred_at`; beyond it the provider's clock is wrong."""

PAST_DUE_MARKS_MAX = 100
"""Maximum past_due events stored per run. Beyond it the newest are dropped, which keeps the start of grace."""

FETCHED_ID = "~"
"""The event id in a fetch's order key: it sorts after every provider's event id."""


class Order(NamedTuple):
    """The sort key of an event among the events of its subscription: the greater tuple is newer."""

    updated_ns: int
    occurred_ns: int
    event_id: str

    @classmethod
    def of(cls, updated_ns: int | None, occurred_ns: int, event_id: str) -> Order:
        """Return the order key of an event. It depends on the event alone, so the order of arrival cannot change it.

        The body with the newer `updated_at` is newer; `occurred_at` breaks ties. An `updated_at` more than
        CLOCK_SLACK_NS ahead is ignored: the clock was wrong, and every later event would be stale until then.
        """
        if updated_ns is None or updated_ns > occurred_ns + CLOCK_SLACK_NS:
            updated_ns = occurred_ns
        return cls(updated_ns, occurred_ns, event_id)

    @classmethod
    def fetched(cls, updated_ns: int | None, began_ns: int, clock_ns: int = 0) -> Order:
        """Return the order key of a body whose fetch began at `began_ns`.

        Among bodies with the same `updated_at`, a fetched one is newer than every event before the fetch.
        Webhooks may carry more fraction digits than the API, so the whole microsecond counts as one instant.

        Args:
            clock_ns: the precision of a coarse clock: the body shares the instant of its events; 0 for a fine clock.
        """
        if clock_ns:
            at_ns = began_ns if updated_ns is None else updated_ns
            return cls(at_ns // clock_ns * clock_ns, began_ns, FETCHED_ID)
        if updated_ns is not None:
            updated_ns = updated_ns // 1000 * 1000 + 999
        return cls.of(updated_ns, began_ns, FETCHED_ID)


def past_due_run(marks: Iterable[Order], settled: Order | None) -> tuple[Order, ...]:
    """Return the past_due events of the current run, ascending: those that are newer than the newest settled event."""
    return tuple(sorted({mark for mark in marks if settled is None or mark > settled})[:PAST_DUE_MARKS_MAX])


def is_from_future(order: Order, received_ns: int) -> bool:
    """Return whether an event of this order that is received then comes from a clock that is ahead."""
    return order.occurred_ns > received_ns + CLOCK_SLACK_NS


class Ahead(NamedTuple):
    """An event from the future.

    Attributes:
        own: its order by its own clock, which is ahead.
        order: the order as which it counts.
    """

    own: Order
    order: Order

    def beside(self, own: Order, received: Order) -> Order:
        """Return the order as which another event of that clock counts: the clock says which of the two is newer.

        Args:
            own: the other event's order by its own clock.
            received: its order by its receipt, which decides the rest.
        """
        if own[:2] == self.own[:2]:
            return self.order._replace(event_id=own.event_id)
        choose, step = (min, -1) if own < self.own else (max, 1)
        return choose(received, Order(self.order.updated_ns + step, self.order.occurred_ns + step, own.event_id))
