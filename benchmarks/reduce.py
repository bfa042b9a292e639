"""Measures events per second of billing's pure part: reduce, then project; no store, no JSON, one core.

    python -m benchmarks.reduce [--events 50000] [--rounds 5]

Tenants have one subscription with an add-on, or three subscriptions one after the other. Every event is new, so each
changes the facts and creates a state. Median of the rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import rig
from sync.billing.catalog import catalog
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.model import NOTHING, Event, Item, Order, Period, Scheduled, Subscription
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.core import instants

CATALOG = Path(__file__).resolve().parent.parent / "sync" / "billing" / "catalog" / "example.toml"
START_NS = instants.parse("2026-11-01T00:00:00Z")
SECOND_NS = 1_000_000_000
EVENTS_PER_TENANT = 100
STATUSES = ("active", "trialing", "past_due", "active")


def history(prices: tuple[str, str], subscriptions: int) -> list[Event]:
    """Return one tenant's events, in order."""
    events = []
    for index in range(EVENTS_PER_TENANT):
        at, name = START_NS + index * SECOND_NS, f"sub_{index % subscriptions}"
        scheduled = Scheduled("cancel", START_NS + 10**15) if index % 5 == 0 else None
        body = Subscription(
            name,
            STATUSES[index % 4],
            (Item(prices[0], index % 7 + 1), Item(prices[1], 1)),
            "ctm_1",
            Period(START_NS, START_NS + 30 * 86_400 * SECOND_NS),
            START_NS + 10**15,
            scheduled,
        )
        order = Order.of(at, at, f"evt_{index}")
        kind = "subscription.updated"
        events.append(
            Event(
                "paddle", "live", f"evt_{index}", kind, order, tenant_id="acme", customer_id="ctm_1",
                subscription_id=name, subscription=body,
            )
        )  # fmt: skip
    return events


def rate(plans: catalog.Catalog, events: list[Event], tenants: int) -> float:
    """Return events per second over this many tenants with these events each."""
    setting = Setting(plans, "live", (), START_NS)
    began = time.perf_counter()
    for _ in range(tenants):
        facts = NOTHING
        for event in events:
            result = reduce(facts, event)
            assert isinstance(result, Reduced)
            facts = result.facts
            assert isinstance(project(facts, setting), Projected)
    return tenants * len(events) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    plans = catalog.load(CATALOG)
    text = CATALOG.read_text()
    prices = tuple(
        price for price in ("pri_01jplanwireprolive00000000", "pri_01jplanwireauditlive000000") if price in text
    )
    assert len(prices) == 2, "the example catalog sells other prices now"
    rows: list[list[object]] = []
    for subscriptions in (1, 3):
        events = history((prices[0], prices[1]), subscriptions)
        tenants = max(1, options.events // len(events))
        rates = [rate(plans, events, tenants) for _ in range(options.rounds)]
        rows.append([subscriptions, rig.median(rates), 1e6 / rig.median(rates)])
    rig.print_table(["subscriptions a tenant", "events/s", "us/event"], rows)


if __name__ == "__main__":
    main()
