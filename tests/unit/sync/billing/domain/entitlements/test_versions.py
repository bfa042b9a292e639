"""Versions of plans: who bought earlier terms keeps them, whatever is edited for new customers, until moved."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.overrides import add_override, remove_override
from sync.billing.domain.entitlements.preview import PreviewRequest, preview
from sync.billing.domain.entitlements.projection import Projected, State, project
from sync.billing.domain.entitlements.scheduled_changes import ChangeRequest, plan_change
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.instructions import PLAN, VERSION, Override
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.domain.facts.moves import joined
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.domain.outcome import ChangeRejected
from sync.core import instants
from tests.support.histories import BASIC, CATALOG_TEXT, PRO, arrivals, at, event, histories

EDIT_DAY = 40
LEGACY = (Item("pri_pro_2024", 2),)

TWO_EDITS = f"""
[plans.free]
name = "Free"
rank = 0
default = true
limits = {{ projects = 1 }}

[[plans.free.versions]]
version = "generous"
until = {instants.text(at(EDIT_DAY))}
limits = {{ projects = 3 }}

[plans.basic]
name = "Basic"
rank = 10
prices.paddle.live = ["pri_basic"]

[plans.pro]
name = "Pro"
rank = 20
version = "2027"
limits = {{ seats = 5, projects = 50 }}
prices.paddle.live = ["pri_pro", "pri_pro_yearly"]

[[plans.pro.versions]]
version = "2026"
until = {instants.text(at(EDIT_DAY))}
limits = {{ seats = 10, projects = "unlimited" }}

[[plans.pro.versions]]
version = "2025"
until = "{instants.text(at(20))}"
features = ["sso"]
limits = {{ seats = 20 }}
per_unit.limits = {{ seats = 1 }}

[[plans.pro.versions]]
version = "2024"
name = "Pro (early)"
limits = {{ seats = 99 }}
prices.paddle.live = ["pri_pro_2024"]
"""
CATALOG = catalog.parse(TWO_EDITS)


def setting(day: float = 60, using: Catalog = CATALOG) -> Setting:
    return Setting(using, "live", (), at(day))


def folded(*events: Event, facts: Facts = NOTHING) -> Facts:
    for each in events:
        result = reduce(facts, each)
        facts = result.facts if isinstance(result, Reduced) else facts
    return facts


def state(facts: Facts, day: float = 60, using: Catalog = CATALOG) -> State:
    found = project(facts, setting(day, using))
    assert isinstance(found, Projected)
    return found.state


def seats(facts: Facts, day: float = 60) -> object:
    return state(facts, day)["limits"].get("seats")


def move(facts: Facts, version: str, day: float = 60, plan: str = "pro", **fields: Any) -> Facts:
    return add_override(facts, Override(VERSION, plan, version, "new terms", **fields), setting(day))


class TestWhatWasBought:
    @pytest.mark.parametrize(("day", "expected"), [(10, 23), (19.9, 23), (20, 10), (39.9, 10), (40, 5), (50, 5)])
    def test_a_price_of_the_plan_buys_the_version_of_its_day(self, day: float, expected: int) -> None:
        assert seats(folded(event("active", day))) == expected

    def test_a_version_has_the_plans_fields_that_it_does_not_give(self) -> None:
        shown = state(folded(event("active", 10)))
        assert shown["plan"] == {"key": "pro", "name": "Pro", "rank": 20}
        assert (shown["features"], shown["limits"]) == ({"sso": True}, {"seats": 23})
        assert state(folded(event("active", 30)))["features"] == {}

    def test_a_price_of_a_version_buys_it_on_every_day(self) -> None:
        for day in (1, 50):
            shown = state(folded(event("active", day, LEGACY)))
            assert (shown["plan"]["name"], shown["limits"]) == ("Pro (early)", {"seats": 99})

    def test_the_creation_counts_for_an_imported_subscription_whose_past_is_unknown(self) -> None:
        body = event("active", 55).subscription
        assert body is not None
        known = replace(event("active", 55), subscription=replace(body, created_ns=at(10)))
        assert seats(folded(known)) == 23
        assert seats(folded(known, event("active", 56, (Item("pri_pro", 4),)))) == 24

    def test_facts_without_the_time_of_creation_are_as_old_as_can_be(self) -> None:
        facts = folded(event("active", 50))
        (key,) = facts.subscriptions
        old = replace(facts.subscriptions[key], created_ns=None, first_seen={})
        assert seats(facts.with_subscription(key, old)) == 23

    def test_an_upgrade_after_the_edit_buys_the_new_terms_and_one_before_it_the_old(self) -> None:
        basic = event("active", 10, BASIC)
        assert seats(folded(basic, event("active", 45))) == 5
        assert seats(folded(basic, event("active", 30))) == 10

    def test_another_price_of_the_plan_and_another_quantity_keep_the_version(self) -> None:
        yearly = event("active", 50, (Item("pri_pro_yearly", 5),))
        assert seats(folded(event("active", 10), yearly)) == 25

    def test_who_comes_back_within_the_subscription_has_the_version_again(self) -> None:
        assert seats(folded(event("active", 10), event("active", 45, BASIC), event("active", 50))) == 23

    def test_a_new_subscription_has_the_present_terms(self) -> None:
        ended = [event("active", 10), event("canceled", 45)]
        assert seats(folded(*ended, event("active", 50, subscription="sub_2"))) == 5

    def test_the_terms_of_two_live_subscriptions_are_united(self) -> None:
        old, new = event("active", 30), event("active", 50, subscription="sub_2")
        shown = state(folded(old, new))
        assert shown["limits"] == {"seats": 10, "projects": "unlimited"}

    def test_of_items_of_two_versions_the_one_listed_counts(self) -> None:
        for items in itertools.permutations((*LEGACY, Item("pri_pro", 1))):
            assert seats(folded(event("active", 50, items))) == 99

    def test_who_has_no_subscription_has_the_present_terms_of_the_default_plan(self) -> None:
        ended = folded(event("active", 10), event("canceled", 12))
        assert state(ended)["limits"] == {"projects": 1}
        assert state(move(ended, "generous", plan="free"))["limits"] == {"projects": 3}

    def test_a_granted_plan_keeps_its_terms_and_a_grant_that_goes_on_too(self) -> None:
        def grant(facts: Facts, day: float) -> Facts:
            given = Override(PLAN, "pro", True, "outage", at(90))
            return add_override(facts, given, setting(day))

        granted = grant(NOTHING, 30)
        assert seats(granted) == 10
        assert seats(grant(granted, 50)) == 10
        assert seats(grant(NOTHING, 50)) == 5
        old = replace(granted, overrides=tuple(replace(one, at_ns=None) for one in granted.overrides))
        assert seats(old) == 21

    def test_a_scheduled_change_that_is_applied_buys_the_terms_of_its_time(self) -> None:
        using = catalog.parse('[policy]\noverdue = "apply"\n' + TWO_EDITS)
        facts = folded(event("active", 10, BASIC))
        change = plan_change(facts, ChangeRequest("pro", at(50)), setting(45, using), {})
        assert state(replace(facts, scheduled_changes=(change,)), 60, using)["limits"]["seats"] == 5


class TestPreview:
    def test_a_change_of_the_quantity_keeps_the_version_and_its_price(self) -> None:
        for items, expected in ((PRO, 30), (LEGACY, 99)):
            facts = folded(event("active", 10, items))
            found = preview(facts, PreviewRequest("pro", quantity=10), setting())
            assert found.state["limits"]["seats"] == expected
            assert found.body.items == (Item(items[0].price_id, 10),)

    def test_an_upgrade_is_shown_with_the_present_terms(self) -> None:
        found = preview(folded(event("active", 10, BASIC)), PreviewRequest("pro"), setting())
        assert found.state["limits"]["seats"] == 5


class TestMoves:
    def test_a_move_counts_over_the_purchase_and_the_price(self) -> None:
        for items in (PRO, LEGACY):
            moved = move(folded(event("active", 10, items)), "2027")
            assert seats(moved) == 5
            assert seats(remove_override(moved, VERSION, "pro")) in (23, 99)

    def test_a_move_back_to_earlier_terms(self) -> None:
        assert seats(move(folded(event("active", 50)), "2026")) == 10

    def test_a_move_is_about_what_was_bought_before_it(self) -> None:
        moved = move(folded(event("active", 10)), "2025", day=45)
        again = folded(event("canceled", 50), event("active", 55, subscription="sub_2"), facts=moved)
        assert seats(again) == 5
        assert seats(move(again, "2025", day=60)) == 23

    def test_a_move_until_an_instant_ends_by_time_alone(self) -> None:
        moved = move(folded(event("active", 50)), "2025", expires_ns=at(70))
        found = project(moved, setting(60))
        assert isinstance(found, Projected)
        assert found.valid_until_ns == at(70)
        assert (seats(moved, 69), seats(moved, 70)) == (23, 5)

    def test_a_version_that_has_left_the_catalog_ends(self) -> None:
        moved = move(folded(event("active", 50)), "2025")
        without = catalog.parse(TWO_EDITS.replace('version = "2025"', 'version = "2025b"'))
        assert state(moved, 60, without)["limits"]["seats"] == 5

    def test_an_unknown_version_is_named_with_those_that_are_there(self) -> None:
        with pytest.raises(ChangeRejected, match="no version '2023': expected one of 2027, 2026, 2025, 2024"):
            move(NOTHING, "2023")
        with pytest.raises(ChangeRejected, match="the plan basic has no version 'x': expected one of none"):
            move(NOTHING, "x", plan="basic")

    def test_moves_survive_encoding_apart_from_what_older_builds_project(self) -> None:
        moved = move(folded(event("active", 10)), "2027")
        assert codec.decode(codec.encode(moved)) == moved
        assert b'"overrides"' not in codec.encode(moved)


TERMS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["Pro", "Renamed"]),
        "features": st.lists(st.sampled_from(["sso", "export", "basic"]), unique=True),
        "limits": st.dictionaries(st.sampled_from(["seats", "projects", "runs"]), st.integers(0, 9)),
        "per_unit.limits": st.dictionaries(st.sampled_from(["seats", "runs"]), st.integers(0, 3)),
        "modules": st.dictionaries(st.sampled_from(["billing", "crm"]), st.sampled_from(["read", "write"])),
    }
)
"""The terms of a plan."""


def toml(terms: Mapping[str, Any]) -> list[str]:
    def value(of: object) -> str:
        if isinstance(of, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in of.items()) + " }"
        return '"' + of + '"' if isinstance(of, str) else str(of)

    return [f"{name} = {value(of)}" for name, of in terms.items()]


def edited(all_terms: Mapping[str, Sequence[Mapping[str, Any]]], days: Sequence[int]) -> Catalog:
    """The catalog after its plans were edited on these days, each time for new customers only."""
    lines = ["[plans.free]", 'name = "Free"', "rank = 0", "default = true"]
    for rank, (key, terms) in enumerate(all_terms.items(), 10):
        prices = ["pri_pro", "pri_pro_yearly"] if key == "pro" else [f"pri_{key}"]
        lines += [
            f"[plans.{key}]",
            f"rank = {rank}",
            f'version = "v{len(days)}"',
            *toml(terms[len(days)]),
            f"prices.paddle.live = {prices}",
        ]
        for number, day in enumerate(days):
            until = f"until = {instants.text(at(day))}"
            lines += [f"[[plans.{key}.versions]]", f'version = "v{number}"', until, *toml(terms[number])]
    lines += [CATALOG_TEXT[CATALOG_TEXT.index("[addons.audit]") :]]
    return catalog.parse("\n".join(lines))


@given(st.data())
def test_an_edit_for_new_customers_only_changes_no_state_of_an_existing_one(data: st.DataObject) -> None:
    """Of no history, however often the plans are edited; and of no order of arrival."""
    terms = {key: data.draw(st.lists(TERMS, min_size=4, max_size=4)) for key in ("basic", "team", "pro")}
    events = data.draw(histories())
    last_ns = max(each.order.occurred_ns for each in events)
    facts = folded(*data.draw(arrivals(events)))
    if data.draw(st.booleans()):
        facts = add_override(
            facts, Override(PLAN, "team", True, "x", at(500)), Setting(edited(terms, ()), "live", (), last_ns)
        )
    if data.draw(st.booleans()):  # to the present terms, which the next edit makes a version
        moved = Override(VERSION, "pro", "v0", "announced")
        facts = add_override(facts, moved, Setting(edited(terms, ()), "live", (), last_ns))
    first = next(day for day in itertools.count(100) if at(day) > last_ns)
    before = edited(terms, ())
    for count in (1, 2, 3):
        after = edited(terms, [first + 10 * number for number in range(count)])
        for day in (first - 1, first, first + 40):
            assert project(facts, setting(day, after)) == project(facts, setting(day, before))


@given(st.data())
def test_the_order_of_arrival_makes_no_difference_to_versions(data: st.DataObject) -> None:
    terms = {key: data.draw(st.lists(TERMS, min_size=3, max_size=3)) for key in ("basic", "team", "pro")}
    using = edited(terms, sorted(data.draw(st.sets(st.integers(1, 20), min_size=2, max_size=2))))
    events = data.draw(histories())
    first, second = (folded(*data.draw(arrivals(events))) for _ in range(2))
    assert codec.encode(first) == codec.encode(second)
    day = data.draw(st.integers(0, 30))
    assert project(first, setting(day, using)) == project(second, setting(day, using))


@given(st.data())
def test_parts_of_a_history_that_are_joined_say_the_same_as_the_whole(data: st.DataObject) -> None:
    """As when a subscription moves from one tenant to another."""
    events: Iterable[Event] = [each for each in data.draw(histories()) if each.subscription_id == "sub_1"]
    whole = folded(*events)
    parts: list[list[Event]] = [[], []]
    for each in events:
        parts[data.draw(st.integers(0, 1))].append(each)
    one, other = (folded(*part).subscriptions.get("paddle:sub_1") for part in parts)
    together, expected = joined(one, other), whole.subscriptions.get("paddle:sub_1")
    assert (together and together.first_seen) == (expected and expected.first_seen)


@given(st.data())
def test_a_move_counts_the_same_before_and_after_events_that_come_late(data: st.DataObject) -> None:
    terms = {key: data.draw(st.lists(TERMS, min_size=3, max_size=3)) for key in ("basic", "team", "pro")}
    using = edited(terms, [5, 12])
    events = data.draw(arrivals(data.draw(histories())))
    cut, day = data.draw(st.integers(0, len(events))), data.draw(st.integers(0, 25))
    moved = Override(VERSION, "pro", data.draw(st.sampled_from(["v0", "v1", "v2"])), "announced")
    facts = folded(*events[cut:], facts=add_override(folded(*events[:cut]), moved, setting(day, using)))
    assert facts == add_override(folded(*events), moved, setting(day, using))
    later = data.draw(st.integers(0, 30))
    assert project(facts, setting(later, using)) == project(codec.decode(codec.encode(facts)), setting(later, using))
