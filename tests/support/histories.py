"""Made histories of billing events, for property tests: what a provider may send, and worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from sync.billing.catalog import catalog
from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.decision import Decided, Delivery, Tenant, decide
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.unknown_items import unblocks
from sync.billing.domain.facts.model import (
    NOTHING,
    Event,
    Facts,
    Item,
    Order,
    Period,
    Scheduled,
    Subscription,
    subscription_key,
)
from sync.core import instants

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
START_NS = instants.parse("2026-11-01T00:00:00Z")

CATALOG_TEXT = """
[plans.free]
name = "Free"
rank = 0
default = true
features = ["basic"]
limits = { seats = 1, projects = 3 }

[plans.basic]
name = "Basic"
rank = 10
features = ["basic", "export"]
limits = { seats = 2, projects = 25 }
modules = { analytics = "read" }
prices.paddle.live = ["pri_basic"]
prices.paddle.sandbox = ["pri_basic_sandbox"]

[plans.team]
name = "Team"
rank = 20
features = ["basic", "team"]
limits = { projects = 100 }
per_unit.limits = { seats = 5 }
prices.paddle.live = ["pri_team"]

[plans.pro]
name = "Pro"
rank = 20
features = ["basic", "sso"]
limits = { seats = 0, projects = "unlimited" }
per_unit.limits = { seats = 1 }
modules = { analytics = "write", billing = "write" }
prices.paddle.live = ["pri_pro", "pri_pro_yearly"]

[addons.audit]
name = "Audit log"
features = ["audit"]
modules = { analytics = "admin" }
prices.paddle.live = ["pri_audit"]

[addons.seats]
name = "More seats"
limits = { projects = 10 }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_seats"]
"""
CATALOG = catalog.parse(CATALOG_TEXT, "histories.toml")

APPS_TEXT = """
[policy]
app = "crm"

[plans.crm_free]
name = "CRM Free"
app = "crm"
rank = 0
default = true
features = ["contacts"]
limits = { seats = 1 }

[plans.crm]
name = "CRM"
app = "crm"
rank = 10
features = ["contacts", "pipeline"]
limits = { seats = 0 }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_crm"]

[plans.crm_max]
name = "CRM Max"
app = "crm"
rank = 20
features = ["contacts", "pipeline", "forecast"]
limits = { seats = "unlimited" }
prices.paddle.live = ["pri_crm_max"]

[plans.mail]
name = "Mail"
app = "mail"
rank = 30
features = ["tickets"]
limits = { seats = 0, inboxes = 3 }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_mail"]

[plans.suite]
name = "Suite"
rank = 50
features = ["contacts", "pipeline", "tickets"]
limits = { seats = 10, inboxes = 10 }
prices.paddle.live = ["pri_suite"]

[addons.audit]
name = "Audit log"
features = ["audit"]
prices.paddle.live = ["pri_audit"]

[addons.inboxes]
name = "More inboxes"
app = "mail"
per_unit.limits = { inboxes = 1 }
prices.paddle.live = ["pri_inboxes"]
"""
APPS_CATALOG = catalog.parse(APPS_TEXT, "applications.toml")
"""Two applications, of which one has a default plan; a plan and an add-on for both."""

APPS_PRICES = ("pri_crm", "pri_crm_max", "pri_mail", "pri_suite", "pri_audit", "pri_inboxes")

PRICES = ("pri_basic", "pri_team", "pri_pro", "pri_pro_yearly", "pri_audit", "pri_seats")
PRO = (Item("pri_pro", 3),)
BASIC = (Item("pri_basic", 1),)


def at(days: float) -> int:
    """The instant so many days after the start."""
    return START_NS + int(days * DAY_NS)


def event(
    status: str,
    occurred: float,
    items: Sequence[Item] = PRO,
    *,
    id: str = "",
    subscription: str = "sub_1",
    updated: float | None = None,
    kind: str = "subscription.updated",
    trial_ends: float | None = None,
    period: tuple[float, float] | None = None,
    scheduled: tuple[str, float] | tuple[str, float, float] | None = None,
    tenant: str | None = "acme",
) -> Event:
    """One event; times are days after the start, and `updated` is `occurred` unless told."""
    occurred_ns = at(occurred)
    event_id = id or f"evt_{occurred_ns:020d}"
    return Event(
        provider="paddle",
        environment="live",
        event_id=event_id,
        type=kind,
        order=Order.of(at(occurred if updated is None else updated), occurred_ns, event_id),
        tenant_id=tenant,
        customer_id="ctm_1",
        subscription_id=subscription,
        subscription=Subscription(
            subscription,
            status,
            tuple(items),
            "ctm_1",
            Period(at(period[0]), at(period[1])) if period else None,
            None if trial_ends is None else at(trial_ends),
            Scheduled(scheduled[0], *(at(time) for time in scheduled[1:])) if scheduled else None,
        ),
    )


def _items(prices: Sequence[str]) -> st.SearchStrategy[tuple[Item, ...]]:
    return st.lists(st.builds(Item, st.sampled_from(prices), st.integers(0, 9)), max_size=4).map(tuple)


# Few instants, so that ties and inversions are common; some with nanoseconds; some years ahead, as a moved clock has.
_instants = st.one_of(
    st.integers(0, 12).map(lambda day: at(day)),
    st.tuples(st.integers(0, 3), st.integers(0, 9)).map(
        lambda pair: at(pair[0]) + int(f"{0.123456789:.{pair[1]}f}"[2:].ljust(9, "0"))
    ),
)
_updated = st.one_of(_instants, _instants.map(lambda ns: ns + 400 * DAY_NS), st.none())
_scheduled = st.one_of(
    st.none(),
    st.builds(Scheduled, st.sampled_from(["cancel", "resume"]), _instants, st.none()),
    st.builds(Scheduled, st.just("pause"), _instants, st.one_of(st.none(), _instants)),
)
_status = st.sampled_from(["active", "active", "past_due", "past_due", "trialing", "paused", "canceled"])


@st.composite
def _any_event(draw: st.DrawFn, number: int, prices: Sequence[str]) -> Event:
    occurred_ns = draw(_instants)
    # Ids in no relation to time: ties must not be broken by luck of generation.
    event_id = f"evt_{draw(st.integers(0, 99)):02d}_{number}"
    subscription = draw(st.sampled_from(["sub_1", "sub_2", "sub_3"]))
    status = draw(_status)
    return Event(
        provider="paddle",
        environment="live",
        event_id=event_id,
        type="subscription.updated",
        order=Order.of(draw(_updated), occurred_ns, event_id),
        tenant_id="acme",
        subscription_id=subscription,
        subscription=Subscription(
            subscription,
            status,
            draw(_items(prices)),
            "ctm_1",
            draw(st.one_of(st.none(), st.builds(Period, _instants, _instants))),
            draw(st.one_of(st.none(), _instants)) if status == "trialing" else None,
            draw(_scheduled),
        ),
    )


@st.composite
def histories(draw: st.DrawFn, prices: Sequence[str] = PRICES) -> list[Event]:
    """Up to 14 different events of up to three subscriptions."""
    return [draw(_any_event(number, prices)) for number in range(draw(st.integers(1, 14)))]


@st.composite
def of_customers(draw: st.DrawFn, customers: Sequence[str]) -> list[Event]:
    """A history whose subscriptions are of different customers, some named by a signed reference.

    Each event says when its subscription was created, and not always the same.
    """
    found = []
    for event in draw(histories()):
        body = event.subscription
        assert body is not None
        customer = customers[int(body.id[-1]) % len(customers)]
        created_ns = at(draw(st.integers(0, 5)))
        is_signed = draw(st.integers(0, 9)) == 0
        body = replace(body, customer_id=customer, created_ns=created_ns)
        found.append(replace(event, customer_id=customer, subscription=body, is_signed=is_signed))
    return found


@st.composite
def arrivals(draw: st.DrawFn, events: Sequence[Event]) -> list[Event]:
    """The events in any order, each once or more."""
    again = draw(st.lists(st.sampled_from(list(events)), max_size=6))
    return draw(st.permutations([*events, *again]))


def key_of(each: Event) -> str:
    return subscription_key(each.provider, str(each.subscription_id))


def processed(events: Sequence[Event], using: Catalog = CATALOG, day: float = 40) -> tuple[Facts, list[Event]]:
    """The facts after the events in this order, and those that are parked, as the inbox keeps and releases them."""
    setting = Setting(using, "live", (), at(day))
    facts, parked, seen = NOTHING, dict[str, Event](), set[str]()
    for arrived in events:
        pending = [arrived]
        while pending:
            each = pending.pop(0)
            is_again = each.event_id in seen
            if is_again and each.event_id not in parked and each is arrived:
                continue  # a duplicate
            seen.add(each.event_id)
            parked.pop(each.event_id, None)
            result = decide(Tenant("tenant:acme", facts), Delivery(each, is_again=is_again), setting)
            if result.waits:
                parked[each.event_id] = each
            if isinstance(result, Decided):
                if unblocks(facts, result.facts, key_of(each), setting):
                    pending += [one for one in parked.values() if key_of(one) == key_of(each) and one is not each]
                facts = result.facts
    return facts, list(parked.values())
