"""The sort key of an event among the events of its subscription. Pure."""

from __future__ import annotations

from typing import NamedTuple

CLOCK_SLACK_NS = 5 * 60 * 1_000_000_000
"""How far a body's `updated_at` may lie after its event's `occurred_at`; beyond it the provider's clock is wrong."""

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
    def fetched(cls, updated_ns: int | None, began_ns: int) -> Order:
        """Return the order key of a body whose fetch began at `began_ns`.

        Among bodies with the same `updated_at`, a fetched one is newer than every event before the fetch.
        Webhooks may carry more fraction digits than the API, so the whole microsecond counts as one instant.
        """
        if updated_ns is not None:
            updated_ns = updated_ns // 1000 * 1000 + 999
        return cls.of(updated_ns, began_ns, FETCHED_ID)
