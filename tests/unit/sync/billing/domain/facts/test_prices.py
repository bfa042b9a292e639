"""What is known of prices: kept while earlier items count, whatever the order of arrival."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.domain.decision import Decided, Delivery, Tenant, decide
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, State, project
from sync.billing.domain.entitlements.scheduled_changes import ChangeRequest, plan_change
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item, Price
from sync.billing.domain.facts.moves import given as given_to
from sync.billing.domain.facts.prices import PRICES_MAX
from sync.billing.domain.facts.reducer import Reduced, Stale, merge_fetched
from tests.support.histories import CATALOG_TEXT, arrivals, at, event, histories

KEY = "paddle:sub_1"
CATALOG = catalog.parse(
    CATALOG_TEXT.replace('prices.paddle.live = ["pri_basic"]', 'products.paddle.live = ["pro_basic"]')
    .replace('prices.paddle.live = ["pri_team"]', 'lookup_keys.paddle.live = ["team"]')
    .replace('prices.paddle.live = ["pri_seats"]', 'products.paddle.live = ["pro_seats"]')
    + '\n[ignore]\nproducts.paddle.live = ["pro_shop"]\n'
)
NOW = Setting(CATALOG, "live", (), at(40))

PRODUCTS = {"pri_basic": "pro_basic", "pri_seats": "pro_seats", "pri_audit": "pro_shop"}


def sold(made: Event, products: Mapping[str, str] = PRODUCTS, keys: Mapping[str, str] | None = None) -> Event:
    """The event, with what its items' prices are known by."""
    body = made.subscription
    assert body is not None
    shown = {item.price_id for item in body.items}
    body = replace(
        body,
        products={id: product for id, product in products.items() if id in shown},
        lookup_keys={id: key for id, key in (keys or {}).items() if id in shown},
    )
    return replace(made, subscription=body)


def folded(events: Sequence[Event]) -> Facts:
    facts = NOTHING
    for each in events:
        result = decide(Tenant("tenant:acme", facts), Delivery(each), NOW)
        facts = result.facts if isinstance(result, Decided) else facts
    return facts


def state_of(facts: Facts) -> State:
    found = project(facts, NOW)
    assert isinstance(found, Projected)
    return found.state


@st.composite
def sold_histories(draw: st.DrawFn) -> list[Event]:
    """Histories whose bodies name products and, not each time, lookup keys. A key may go to another price."""
    keys = st.dictionaries(st.sampled_from(["pri_team", "pri_pro", "pri_basic"]), st.sampled_from(["team", "old"]))
    return [sold(each, keys=draw(keys)) for each in draw(histories())]


@given(st.data())
def test_any_permutation_and_duplication_ends_the_same(data: st.DataObject) -> None:
    events = data.draw(sold_histories())
    first, second = (folded(data.draw(arrivals(events))) for _ in range(2))
    # The events of a subscription of which nothing is known wait, until another one lets them in.
    first, second = (folded_again(facts, events) for facts in (first, second))
    assert first == second
    assert codec.decode(codec.encode(first)) == first
    assert project(first, NOW) == project(second, NOW)


def folded_again(facts: Facts, events: Sequence[Event]) -> Facts:
    for each in (*events, *events):
        result = decide(Tenant("tenant:acme", facts), Delivery(each), NOW)
        facts = result.facts if isinstance(result, Decided) else facts
    return facts


def test_a_price_of_a_known_product_just_works_and_its_price_counts_before() -> None:
    assert state_of(folded([sold(event("active", 1, [Item("pri_basic", 1)]))]))["plan"]["key"] == "basic"
    deal = sold(event("active", 1, [Item("pri_deal", 4)]), {"pri_deal": "pro_basic"})
    assert state_of(folded([deal]))["plan"]["key"] == "basic"
    known = sold(event("active", 1, [Item("pri_pro", 4)]), {"pri_pro": "pro_basic"})
    assert state_of(folded([known]))["plan"]["key"] == "pro"


def test_what_stood_in_by_its_product_still_does_after_newer_bodies() -> None:
    """In every order of arrival."""
    deal = sold(event("active", 1, [Item("pri_deal", 1)]), {"pri_deal": "pro_basic"})
    odd = sold(event("active", 2, [Item("pri_odd", 1)]), {"pri_odd": "pro_odd"})
    odder = sold(event("past_due", 39, [Item("pri_odder", 1)]), {"pri_odder": "pro_odd"})
    for order in itertools.permutations([deal, odd, odder]):
        facts = folded_again(folded(order), order)
        assert facts.subscriptions[KEY].former["pri_deal"] == Price("", "pro_basic")
        state = state_of(facts)
        assert (state["plan"]["key"], state["status"]) == ("basic", "past_due")


def test_whoever_bought_a_price_keeps_what_its_lookup_key_named_when_the_next_price_gets_the_key() -> None:
    first = sold(event("active", 1, [Item("pri_2025", 3)]), keys={"pri_2025": "team"})
    later = sold(event("active", 2, [Item("pri_2025", 3)]))
    for order in ([first, later], [later, first, later]):
        state = state_of(folded(order))
        assert (state["plan"]["key"], state["limits"]["seats"]) == ("team", 15)


def test_the_kept_plan_of_a_scheduled_change_is_known_after_the_items_were_switched() -> None:
    seller = sold(event("active", 1, [Item("pri_basic", 1)]))
    facts = folded([seller])
    changed = plan_change(facts, ChangeRequest("pro", at(50)), NOW, {})
    facts = replace(facts, scheduled_changes=(replace(changed, executed=True),))
    switched = decide(Tenant("tenant:acme", facts), Delivery(event("active", 2, [Item("pri_pro", 1)])), NOW)
    assert isinstance(switched, Decided)
    assert (switched.state["plan"]["key"], switched.state["scheduled"]["plan"]) == ("basic", "pro")


def test_an_answer_of_the_provider_teaches_facts_of_an_older_build_without_a_drift() -> None:
    facts = folded([event("active", 1, [Item("pri_pro", 1)])])
    answer = sold(event("active", 1, [Item("pri_pro", 1)], id="fetched"), {"pri_pro": "pro_app"}, {"pri_pro": "team"})
    answer = replace(answer, type="fetched")
    learned = merge_fetched(facts, answer)
    assert isinstance(learned, Reduced)
    body = learned.facts.subscriptions[KEY].subscription
    assert (body.products, body.lookup_keys) == ({"pri_pro": "pro_app"}, {"pri_pro": "team"})
    assert body == facts.subscriptions[KEY].subscription
    assert isinstance(merge_fetched(learned.facts, answer), Stale)


def test_both_tenants_knowledge_of_prices_goes_with_a_moved_subscription() -> None:
    one = folded([sold(event("active", 1, [Item("pri_basic", 1)]))])
    two = folded([sold(event("active", 2, [Item("pri_seats", 1)]))])
    entries = [facts.subscriptions[KEY] for facts in (one, two)]
    ends = [given_to(two, KEY, entries[0], (), 5), given_to(one, KEY, entries[1], (), 5)]
    assert ends[0] == ends[1]
    assert ends[0].subscriptions[KEY].former == {"pri_basic": Price("", "pro_basic")}


def test_former_prices_are_bounded() -> None:
    events = [
        sold(event("active", 1 + number / 1000, [Item(f"pri_{number:03d}", 1)]), {f"pri_{number:03d}": "pro_basic"})
        for number in range(PRICES_MAX + 5)
    ]
    former = folded(events).subscriptions[KEY].former
    assert len(former) <= PRICES_MAX
    assert "pri_000" not in former
