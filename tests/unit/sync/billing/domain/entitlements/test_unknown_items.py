"""Unknown items: what stands in for them, what is reported, and that the order of arrival changes nothing."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.domain.decision import Decided, Delivery, Tenant, decide, decide_without_event
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, State, project
from sync.billing.domain.entitlements.unknown_items import unknown_reason
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.providers.stripe.webhooks import StripeWebhooks
from tests.support.histories import BASIC, CATALOG, CATALOG_TEXT, PRO, arrivals, at, event, histories, processed
from tests.support.stripe_histories import Change, encoded, history, items

TOPIC = "tenant:acme"
FEW = catalog.parse(CATALOG_TEXT.replace('"pri_team"', '"pri_x"').replace('"pri_seats"', '"pri_y"'))
"""A catalog that lacks the price of a plan and of an add-on in the histories."""

DEAL = (Item("pri_deal", 9),)


def setting(day: float = 40, using: catalog.Catalog = CATALOG) -> Setting:
    return Setting(using, "live", (), at(day))


def state_of(facts: Facts, day: float = 40, using: catalog.Catalog = CATALOG) -> State:
    found = project(facts, setting(day, using))
    assert isinstance(found, Projected)
    return found.state


@given(st.data())
def test_any_permutation_and_duplication_ends_the_same_with_unknown_prices(data: st.DataObject) -> None:
    events = data.draw(histories())
    first, _ = processed(data.draw(arrivals(events)), FEW)
    second, _ = processed(data.draw(arrivals(events)), FEW)
    assert first == second
    assert codec.decode(codec.encode(first)) == first
    day = data.draw(st.integers(0, 30))
    assert project(first, setting(day, FEW)) == project(second, setting(day, FEW))


@given(st.data())
def test_what_is_parked_counts_once_the_catalog_knows_everything(data: st.DataObject) -> None:
    """As if it had known it from the start."""
    events = data.draw(histories())
    facts, parked = processed(data.draw(arrivals(events)), FEW)
    for each in parked:
        result = decide(Tenant(TOPIC, facts), Delivery(each, is_again=True), setting())
        assert not result.waits
        facts = result.facts if isinstance(result, Decided) else facts
    expected, nothing = processed(events)
    assert nothing == []
    assert project(facts, setting()) == project(expected, setting())


STRIPE = catalog.parse(CATALOG_TEXT.replace("prices.paddle", "prices.stripe"))
ONE, FIVE, TWO = ({"items": items(("pri_pro", number))} for number in (1, 5, 2))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("changes", "seats"),
    [
        ([(0, "created", ONE), (0, "updated", FIVE)], 5),
        (
            [
                (0, "created", ONE),
                (3, "updated", FIVE),
                (3, "updated", TWO),
            ],
            2,
        ),
        ([(0, "created", ONE), (5, "updated", FIVE)], 5),
    ],
)
def test_of_the_events_of_one_second_the_last_with_known_items_stands_in(
    changes: list[Change], seats: int, seed: int
) -> None:
    """In every order of arrival: the ids tell nothing."""
    deal: Change = (5, "updated", {"items": items(("pri_deal", 1)), "status": "past_due"})
    shown = history([*changes, deal], random.Random(seed))
    events = [StripeWebhooks().parse(encoded(each), "live") for each in shown]
    for order in itertools.permutations([each for each in events if isinstance(each, Event)]):
        facts, _ = processed(order, STRIPE)
        assert state_of(facts, 24, STRIPE)["limits"]["seats"] == seats


@pytest.mark.parametrize("status", ["active", "trialing", "past_due"])
def test_what_was_granted_stays_in_place_of_unknown_items(status: str) -> None:
    facts, parked = processed([event("active", 38, PRO), event(status, 39, DEAL, id="deal")])
    state = state_of(facts, 39)
    assert (state["plan"]["key"], state["limits"]["seats"], state["status"]) == ("pro", 3, status)
    assert [each.event_id for each in parked] == ([] if status == "past_due" else ["deal"])


def test_an_unknown_plan_takes_no_add_on_and_a_known_add_on_no_plan() -> None:
    audit = Item("pri_audit", 1)
    both = [event("active", 1, [*PRO, audit]), event("active", 2, DEAL)]
    state = state_of(processed(both)[0])
    assert (state["plan"]["key"], "audit" in state["features"]) == ("pro", True)
    changed = [event("active", 1, PRO), event("active", 2, [*DEAL, audit])]
    state = state_of(processed(changed)[0])
    assert (state["plan"]["key"], "audit" in state["features"]) == ("pro", True)


def test_a_known_plan_counts_whatever_was_granted_before() -> None:
    state = state_of(processed([event("active", 1, PRO), event("active", 2, [*BASIC, *DEAL])])[0])
    assert (state["plan"]["key"], state["limits"]["seats"]) == ("basic", 2)


def test_a_new_subscription_of_which_nothing_is_known_waits_unless_it_fails_or_ends() -> None:
    for status in ("active", "trialing", "incomplete"):
        facts, parked = processed([event(status, 1, DEAL)])
        assert (facts, len(parked)) == (NOTHING, 1)
    for status in ("past_due", "unpaid", "canceled"):
        facts, parked = processed([event("active", 38, DEAL), event(status, 39, DEAL)])
        assert parked == []
        state = state_of(facts, 39)
        assert (state["plan"]["key"], state["status"]) == ("free", status)


def test_a_payment_that_arrives_before_its_failure_is_not_forgotten() -> None:
    """Of a subscription of which nothing is known: the newest event was parked whole, and the older one lets it in."""
    facts, parked = processed([event("active", 39, DEAL, id="paid"), event("past_due", 38, DEAL)])
    assert state_of(facts, 39)["status"] == "active"
    assert [each.event_id for each in parked] == ["paid"]


def test_an_answer_of_the_provider_with_unknown_prices_changes_nothing_that_it_must_not() -> None:
    facts, _ = processed([event("active", 1, PRO)])
    fetched = [
        replace(event("active", day, DEAL, subscription=name), type="fetched")
        for day, name in ((2, "sub_1"), (3, "sub_2"))
    ]
    result = decide_without_event(Tenant(TOPIC, facts, True), fetched, lambda facts: facts, setting())
    assert isinstance(result, Decided)
    assert result.state["plan"]["key"] == "pro"
    assert result.facts.subscriptions.keys() == {"paddle:sub_1"}
    assert "unknown price pri_deal in live" in result.note


class TestPriceThatLeftTheCatalog:
    """What was published before stays; status, grace and end apply."""

    WITHOUT = catalog.parse(CATALOG_TEXT.replace('"pri_pro", ', ""))
    PLANLESS = catalog.parse(re.sub(r"\[plans.pro\].*?(?=\[plans|\[addons)", "", CATALOG_TEXT, flags=re.DOTALL))

    def after(self, facts: Facts, using: catalog.Catalog, *events: Event, day: float = 39) -> tuple[Facts, State]:
        """The facts and the state after the edit and these events."""
        shown = orjson.dumps(state_of(facts, day))
        kept = decide_without_event(Tenant(TOPIC, facts, True, shown), (), lambda it: it, setting(day, using))
        assert isinstance(kept, Decided)
        assert (kept.waits, orjson.dumps(kept.state)) == (("catalog",), shown)
        for each in events:
            now = kept.facts if isinstance(kept, Decided) else facts
            found = decide(Tenant(TOPIC, now, True, shown), Delivery(each), setting(day, using))
            kept = found if isinstance(found, Decided) else kept
        assert isinstance(kept, Decided)
        assert codec.decode(codec.encode(kept.facts)) == kept.facts
        return kept.facts, kept.state

    @pytest.mark.parametrize("using", [WITHOUT, PLANLESS])
    def test_a_failed_payment_grace_and_the_end_take_effect_and_a_payment_gives_the_plan_back(
        self, using: catalog.Catalog
    ) -> None:
        before, _ = processed([event("active", 1, PRO)])
        facts, failed = self.after(before, using, event("past_due", 38.9, PRO))
        assert (failed["plan"]["key"], failed["limits"]["seats"], failed["status"]) == ("pro", 3, "past_due")
        assert state_of(facts, 60, using)["plan"]["key"] == "free"
        paid = decide(
            Tenant(TOPIC, facts, True, b'{"plan":{"key":"free"}}'),
            Delivery(event("active", 61, PRO)),
            setting(61, using),
        )
        assert isinstance(paid, Decided)
        assert (paid.state["plan"]["key"], paid.state["status"], paid.is_parked) == ("pro", "active", True)
        assert paid.waits == ("catalog", "items:paddle:sub_1")
        _, ended = self.after(before, using, event("canceled", 38.9, PRO))
        assert (ended["plan"]["key"], ended["status"]) == ("free", "canceled")

    def test_every_order_ends_the_same(self) -> None:
        before, _ = processed([event("active", 1, PRO)])
        events = [event("past_due", 37, PRO), event("active", 38, PRO), event("past_due", 38.5, PRO)]
        ends = [self.after(before, self.WITHOUT, *order) for order in itertools.permutations(events)]
        assert all(end == ends[0] for end in ends)
        assert (ends[0][1]["plan"]["key"], ends[0][1]["status"]) == ("pro", "past_due")

    def test_what_is_known_besides_counts_too_and_nothing_is_kept_once_the_price_is_back(self) -> None:
        before, _ = processed([event("active", 1, BASIC, subscription="sub_2"), event("active", 2, PRO)])
        higher = catalog.parse(CATALOG_TEXT.replace('"pri_pro", ', "").replace("rank = 20", "rank = 30", 1))
        facts, state = self.after(before, higher, event("active", 38, [Item("pri_team", 1)], subscription="sub_2"))
        assert (state["plan"]["key"], state["limits"]) == ("team", {"seats": 5, "projects": "unlimited"})
        back = decide_without_event(Tenant(TOPIC, facts, True), (), lambda it: it, setting())
        assert isinstance(back, Decided)
        assert back.facts.kept is None

    def test_nothing_is_kept_for_a_subscription_that_is_new_to_the_tenant(self) -> None:
        """Another tenant has what it granted."""
        facts, _ = processed([event("active", 1, PRO)])
        result = decide_without_event(
            Tenant(TOPIC, NOTHING, True, b'{"plan":{}}'), (), lambda _: facts, setting(using=self.WITHOUT)
        )
        assert (result.waits, isinstance(result, Decided)) == (("catalog",), False)


def test_the_reason_names_the_environment_and_where_the_price_is_known() -> None:
    assert unknown_reason([("paddle", "b"), ("stripe", "a")], setting()) == "unknown price a, b in live"
    many = [("paddle", f"pri_{number:03d}") for number in range(100)]
    assert unknown_reason(many, setting()).endswith("pri_008, pri_009 and 90 more in live")
    reason = unknown_reason([("paddle", "pri_basic_sandbox")], setting())
    assert reason == "unknown price pri_basic_sandbox in live; the catalog has pri_basic_sandbox for sandbox"
