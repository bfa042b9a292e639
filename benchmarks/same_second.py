"""Counts wrong ends of Stripe's events of one second: random ids, webhook bodies, no API key; no store, one core.

    python -m benchmarks.same_second [--pairs 10000] [--orders 10000]

`in order` is a checkout, `incomplete` then `active`, delivered in that order. `any order` are the histories of
`tests/support/stripe_histories.py`, each delivered in random orders. An end is wrong if it is not the state of the last
event that happened. The last column is what sorting by the event id would get wrong.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from benchmarks import rig
from sync.billing.domain.facts.model import NOTHING, Event
from sync.billing.domain.facts.reducer import Reduced, received, reduce
from sync.billing.providers.stripe.webhooks import StripeWebhooks
from tests.support.stripe_bodies import NOW
from tests.support.stripe_histories import CHECKOUT, HISTORIES, Change, encoded, history

STRIPE = StripeWebhooks()
SECOND_NS = 1_000_000_000


def happened(changes: Sequence[Change], chance: random.Random) -> list[Event]:
    """Return the events of the changes, in the order in which they happened, with new random ids."""
    events = [STRIPE.parse(encoded(each), "live") for each in history(changes, chance)]
    return [each for each in events if isinstance(each, Event)]


def is_wrong(events: Sequence[Event], arrived: Sequence[Event]) -> bool:
    """Return whether the events, in this order of arrival, end in another state than that of the last."""
    facts = NOTHING
    for number, event in enumerate(arrived):
        result = reduce(facts, received(facts, event, (NOW + 60) * SECOND_NS + number))
        facts = result.facts if isinstance(result, Reduced) else facts
    return facts.subscriptions["stripe:sub_1"].subscription != events[-1].subscription


def is_wrong_by_id(events: Sequence[Event]) -> bool:
    """Return whether the greatest (second, event id) is not the last event's."""
    return max(events, key=lambda event: event.order).subscription != events[-1].subscription


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--orders", type=int, default=10_000)
    options = parser.parse_args()
    chance = random.Random(15)
    pairs = [happened(CHECKOUT, chance) for _ in range(options.pairs)]
    histories = list(HISTORIES.values())
    others = [happened(histories[number % len(histories)], chance) for number in range(options.orders)]
    rows: list[list[object]] = [
        ["in order", len(pairs), sum(is_wrong(each, each) for each in pairs), sum(map(is_wrong_by_id, pairs))],
        [
            "any order",
            len(others),
            sum(is_wrong(each, chance.sample(each, len(each))) for each in others),
            sum(map(is_wrong_by_id, others)),
        ],
    ]
    rig.print_table(["arrival", "histories", "wrong", "wrong by event id"], rows)


if __name__ == "__main__":
    main()
