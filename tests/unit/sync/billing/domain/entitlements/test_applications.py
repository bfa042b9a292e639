"""Several applications of one tenant: each is projected by itself, and the state has all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.decision import Decided, Delivery, Tenant, decide
from sync.billing.domain.entitlements.awaited import await_preview
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.preview import PreviewRequest, preview
from sync.billing.domain.entitlements.projection import Projected, Unprojectable, project
from sync.billing.domain.entitlements.scheduled_changes import (
    ChangeRequest,
    plan_change,
    target_items,
    with_change,
    without_change,
)
from sync.billing.domain.entitlements.wakeups import next_wakeup_us
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.instructions import PLAN, Override
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.domain.outcome import ChangeRejected
from tests.support.histories import (
    APPS_CATALOG,
    APPS_PRICES,
    APPS_TEXT,
    CATALOG,
    CATALOG_TEXT,
    arrivals,
    at,
    event,
    histories,
    processed,
)

CRM = (Item("pri_crm", 5),)
MAIL = (Item("pri_mail", 2),)


def after(*events: Event, using: Catalog = APPS_CATALOG) -> Facts:
    """The facts after events that arrive in this order."""
    return processed(events, using)[0]


def setting(using: Catalog = APPS_CATALOG, day: float = 5) -> Setting:
    return Setting(using, "live", (), at(day))


def state_of(*of: Event | Facts, day: float = 5, using: Catalog = APPS_CATALOG) -> dict[str, Any]:
    facts = of[0] if isinstance(of[0], Facts) else after(*[one for one in of if isinstance(one, Event)], using=using)
    projected = project(facts, setting(using, day))
    assert isinstance(projected, Projected)
    return projected.state


def plans(state: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {app: (each.get("plan", {}).get("key", ""), each["status"]) for app, each in state["apps"].items()}


def test_nothing_bought_is_the_default_plan_of_each_application_that_has_one() -> None:
    state = state_of(NOTHING)
    assert plans(state) == {"crm": ("crm_free", "none"), "mail": ("", "none")}
    assert state["apps"]["mail"] == {"status": "none", "features": {}, "limits": {}, "modules": {}}
    assert state == {**state["apps"]["crm"], "apps": state["apps"]}


def test_rank_decides_within_an_application_and_the_leading_one_s_plan_is_shown() -> None:
    state = state_of(
        event("past_due", 1, CRM, subscription="sub_crm"), event("trialing", 1.5, MAIL, subscription="sub_mail")
    )
    assert plans(state) == {"crm": ("crm", "past_due"), "mail": ("mail", "trialing")}
    assert (state["plan"]["key"], state["status"]) == ("crm", "past_due")
    assert state["grace_ends_at"] == state["apps"]["crm"]["grace_ends_at"]
    assert "grace_ends_at" not in state["apps"]["mail"]
    assert state["features"] == {"contacts": True, "pipeline": True, "tickets": True}
    assert state["limits"] == {"seats": 5, "inboxes": 3}
    assert state["apps"]["crm"]["limits"] == {"seats": 5}
    assert state["apps"]["mail"]["limits"] == {"seats": 2, "inboxes": 3}


def test_one_subscription_can_buy_plans_of_two_applications() -> None:
    state = state_of(event("active", 1, (*CRM, *MAIL), period=(1, 31)))
    assert plans(state) == {"crm": ("crm", "active"), "mail": ("mail", "active")}
    assert state["apps"]["mail"]["period"] == state["period"]


def test_the_end_in_one_application_leaves_the_other() -> None:
    ended = event("canceled", 2, MAIL, subscription="sub_mail")
    state = state_of(event("active", 1, CRM), ended)
    assert plans(state) == {"crm": ("crm", "active"), "mail": ("", "canceled")}


def test_a_plan_for_all_applications_counts_in_each() -> None:
    state = state_of(event("active", 1, (Item("pri_suite", 1),)))
    assert plans(state) == {"crm": ("suite", "active"), "mail": ("suite", "active")}


def test_an_addon_for_all_adds_everywhere_and_gives_no_other_application_a_status() -> None:
    state = state_of(event("active", 1, (*MAIL, Item("pri_audit", 1))))
    assert plans(state) == {"crm": ("crm_free", "none"), "mail": ("mail", "active")}
    assert all("audit" in each["features"] for each in state["apps"].values())
    alone = state_of(event("active", 1, (Item("pri_audit", 1),)))
    assert plans(alone) == {"crm": ("crm_free", "active"), "mail": ("", "none")}
    assert all("audit" in each["features"] for each in alone["apps"].values())


@pytest.mark.parametrize("none", [Item("pri_mail", 0), Item("pri_inboxes", 0), Item("pri_suite", 0)])
def test_an_item_of_quantity_0_gives_no_application_a_status(none: Item) -> None:
    for status in ("active", "past_due", "paused", "canceled"):
        crm = "crm" if status in ("active", "past_due") else "crm_free"
        assert plans(state_of(event(status, 4, (*CRM, none)))) == {"crm": (crm, status), "mail": ("", "none")}
    assert plans(state_of(event("active", 4, (Item("pri_mail", 0),)))) == {
        "crm": ("crm_free", "none"),
        "mail": ("", "active"),
    }


def test_the_earliest_change_by_time_is_that_of_the_tenant() -> None:
    projected = project(
        after(
            event("active", 1, CRM, subscription="sub_crm", scheduled=("cancel", 20)),
            event("trialing", 1.5, MAIL, subscription="sub_mail", trial_ends=15),
        ),
        setting(),
    )
    assert isinstance(projected, Projected)
    state = projected.state
    assert projected.valid_until_ns == at(15)
    assert state["valid_until"] == state["apps"]["mail"]["valid_until"] < state["apps"]["crm"]["valid_until"]


class TestUnknownItems:
    """Items whose application nobody knows never take anything from an application."""

    NEW = Item("pri_new", 1)

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_what_was_granted_last_stays_in_each_application(self, order: Sequence[int]) -> None:
        events = [
            event("active", 1, (*CRM, *MAIL)),
            event("active", 2, (*CRM, self.NEW)),
            event("active", 3, (*CRM, self.NEW, Item("pri_audit", 1))),
        ]
        facts = after(*[events[index] for index in order])
        assert plans(state_of(facts)) == {"crm": ("crm", "active"), "mail": ("mail", "active")}

    def test_they_give_no_status_to_an_application_that_never_was_bought(self) -> None:
        state = state_of(event("active", 1, (*CRM, self.NEW)))
        assert plans(state) == {"crm": ("crm", "active"), "mail": ("", "none")}

    def test_an_edit_of_the_catalog_takes_away_only_what_was_sold_for_its_application(self) -> None:
        both = after(
            event("active", 1, CRM, subscription="sub_crm"), event("active", 1.5, MAIL, subscription="sub_mail")
        )
        without = catalog.parse(APPS_TEXT.replace('["pri_mail"]', "[]"))
        assert isinstance(project(both, setting(without)), Unprojectable)
        kept = replace(both, kept=state_of(both))
        assert state_of(kept, using=without) == state_of(both)
        changed = state_of(
            replace(after(event("canceled", 2, CRM, subscription="sub_crm"), using=without), kept=kept.kept)
        )
        assert plans(changed)["crm"] == ("crm_free", "canceled")


class TestOverrides:
    """What operators grant for one application, or for all."""

    def granted(self, *overrides: Override) -> dict[str, Any]:
        return state_of(replace(after(event("active", 1, MAIL)), overrides=overrides))

    def test_a_plan_is_granted_in_its_application(self) -> None:
        state = self.granted(Override(PLAN, "crm", 3, "promised"))
        assert plans(state) == {"crm": ("crm", "active"), "mail": ("mail", "active")}
        assert state["plan"]["key"] == state["grant"]["plan"] == "crm"
        assert "grant" not in state["apps"]["mail"]

    def test_a_feature_counts_in_the_application_that_it_is_granted_for(self) -> None:
        state = self.granted(Override("feature", "beta", True, "asked", app="mail"), Override("limit", "seats", 9, "x"))
        assert "beta" in state["features"]
        assert "beta" not in state["apps"]["crm"]["features"]
        assert [each["limits"]["seats"] for each in (state, *state["apps"].values())] == [9, 9, 9]

    def test_a_revocation_in_one_application_leaves_the_other(self) -> None:
        suite = after(event("active", 1, (Item("pri_suite", 1),)))
        taken = replace(suite, overrides=(Override("feature", "tickets", None, "abuse", app="crm"),))
        state = state_of(taken)
        assert "tickets" not in state["apps"]["crm"]["features"]
        assert "tickets" in state["apps"]["mail"]["features"]
        assert "tickets" in state["features"]

    def test_facts_are_read_as_they_were_written(self) -> None:
        facts = after(event("active", 1, (*CRM, *MAIL)), event("active", 2, (*CRM, TestUnknownItems.NEW)))
        facts = replace(facts, overrides=(Override("feature", "beta", True, "asked", app="mail"),))
        assert codec.decode(codec.encode(facts)) == facts
        assert facts.subscriptions["paddle:sub_1"].granted_in


class TestTakeover:
    """What was published before billing computed the tenant stays, each in its application."""

    @pytest.mark.parametrize(
        "published",
        [
            {"plan": {"key": "mail", "rank": 30}, "limits": {"seats": 7}},
            {
                "plan": {"key": "crm"},
                "apps": {"crm": {"plan": {"key": "crm"}}, "mail": {"plan": "mail", "limits": {"seats": 7}}},
            },
        ],
    )
    def test_a_plan_of_another_application_than_the_bought_one_is_granted(self, published: dict[str, Any]) -> None:
        bought = event("active", 1, CRM, subscription="sub_crm")
        first = decide(Tenant("tenant:acme", published=published), Delivery(bought), setting())
        assert isinstance(first, Decided)
        assert plans(first.state) == {"crm": ("crm", "active"), "mail": ("mail", "active")}
        assert first.state["apps"]["mail"]["limits"]["seats"] == 7
        assert [drift.here["plan"] for drift in first.drifts if isinstance(drift.here, dict)] == ["mail"]
        dearer = event("active", 2, (Item("pri_crm_max", 1),), subscription="sub_crm")
        second = decide(Tenant("tenant:acme", first.facts, True), Delivery(dearer), setting())
        assert isinstance(second, Decided)
        assert plans(second.state)["mail"] == ("mail", "active"), "a rank of the other application ends nothing"
        own = event("active", 3, MAIL, subscription="sub_mail")
        third = decide(Tenant("tenant:acme", second.facts, True), Delivery(own), setting())
        assert isinstance(third, Decided)
        assert (third.facts.overrides, third.state["apps"]["mail"]["limits"]["seats"]) == ((), 2)


class TestChanges:
    """Previews and scheduled changes of one application."""

    BOTH = (*CRM, *MAIL)

    def changed(self, facts: Facts, *requests: ChangeRequest) -> Facts:
        for request in requests:
            facts = with_change(facts, plan_change(facts, request, setting(), {}))
        return facts

    def test_a_change_replaces_the_plan_of_its_application_among_the_items(self) -> None:
        facts = after(event("active", 1, self.BOTH))
        seen = preview(facts, PreviewRequest("crm_max", 1), setting())
        assert sorted(seen.body.items) == [("pri_crm_max", 1), ("pri_mail", 2)]
        suite = preview(facts, PreviewRequest("suite"), setting())
        assert suite.body.items == (Item("pri_suite", 7),), "a plan for all replaces all"
        within = preview(facts, PreviewRequest("suite", 1, app="crm"), setting())
        assert sorted(within.body.items) == [("pri_mail", 2), ("pri_suite", 1)]

    def test_each_application_has_one_scheduled_change(self) -> None:
        facts = after(event("active", 1, (*MAIL, Item("pri_crm_max", 5)), period=(1, 31)))
        first = self.changed(facts, ChangeRequest("crm"))
        assert [(one.plan, one.app) for one in first.scheduled_changes] == [("crm", "crm")]
        other = self.changed(first, ChangeRequest("suite", app="mail"))
        assert [(one.plan, one.app) for one in other.scheduled_changes] == [("crm", "crm"), ("suite", "mail")]
        assert codec.decode(codec.encode(other)) == other
        again = self.changed(other, ChangeRequest("crm", at(20)))
        assert [(one.plan, one.app, one.effective_ns) for one in again.scheduled_changes][1] == ("crm", "crm", at(20))
        whole = self.changed(other, ChangeRequest("suite"))
        assert [(one.plan, one.app) for one in whole.scheduled_changes] == [("suite", "")]
        assert without_change(other, "mail", setting()) == first
        assert [one.plan for one in without_change(other, "", setting()).scheduled_changes] == ["suite"]
        with pytest.raises(ChangeRejected, match=r"no application 'shop'"):
            without_change(other, "shop", setting())

    def test_what_the_provider_is_asked_to_set_leaves_the_other_application(self) -> None:
        facts = self.changed(
            after(event("active", 1, (*MAIL, Item("pri_crm_max", 5)), period=(1, 31))), ChangeRequest("crm")
        )
        (change,) = facts.scheduled_changes
        assert target_items(facts, change, setting()) == ("sub_1", (Item("pri_crm", 5), *MAIL))

    def test_a_bundle_stays_in_every_application_until_it_is_changed_to_a_plan_of_one(self) -> None:
        """The provider's items are changed before the bill, so before the instant."""
        suite = event("active", 1, (Item("pri_suite", 1),), period=(1, 31))
        facts = self.changed(after(suite), ChangeRequest("crm"))
        switched = decide(
            Tenant("tenant:acme", facts, True), Delivery(event("active", 2, CRM, period=(1, 31))), setting()
        )
        assert isinstance(switched, Decided)
        assert plans(switched.state) == {"crm": ("suite", "active"), "mail": ("suite", "active")}
        assert switched.state["apps"]["mail"]["valid_until"] == switched.state["scheduled"]["effective_at"]
        assert plans(state_of(switched.facts, day=31)) == {"crm": ("crm", "active"), "mail": ("", "none")}

    def test_an_awaited_preview_is_compared_within_its_application(self) -> None:
        facts = after(event("active", 1, CRM, subscription="sub_crm"))
        awaited = await_preview(facts, "pv_1", preview(facts, PreviewRequest("crm_max"), setting()), at(5))
        assert codec.decode(codec.encode(awaited)) == awaited
        mail = event("active", 2, MAIL, subscription="sub_mail")
        bought = decide(Tenant("tenant:acme", awaited, True), Delivery(mail), setting())
        assert isinstance(bought, Decided)
        landed = event("active", 3, (Item("pri_crm_max", 5),), subscription="sub_crm")
        done = decide(Tenant("tenant:acme", bought.facts, True), Delivery(landed), setting())
        assert isinstance(done, Decided)
        assert (done.drifts, done.facts.awaited_previews) == ((), ())

    def test_the_provider_is_asked_about_what_is_due_in_any_application(self) -> None:
        facts = after(event("active", 1, MAIL, scheduled=("cancel", 4)))
        asking = setting()._replace(askable=(("paddle", "live"),))
        projected = project(facts, asking)
        assert isinstance(projected, Projected)
        assert "pending" not in projected.state
        assert "pending" in projected.state["apps"]["mail"]
        assert next_wakeup_us(projected, facts, asking) is not None


@given(st.data())
def test_any_order_of_arrival_ends_alike(data: st.DataObject) -> None:
    history = data.draw(histories((*APPS_PRICES, "pri_new")))
    one, other = (after(*data.draw(arrivals(history))) for _ in range(2))
    assert one == other
    assert codec.decode(codec.encode(one)) == one
    using = setting(day=data.draw(st.integers(0, 30)))
    assert project(one, using) == project(other, using)


@given(st.data())
def test_each_application_is_computed_from_what_is_sold_for_it_alone(data: st.DataObject) -> None:
    """The state of an application is that of a catalog that has no other and ignores its prices.

    Without items of quantity 0: beside another application's they give no status.
    """
    history = data.draw(histories(("pri_crm", "pri_crm_max", "pri_mail", "pri_inboxes", "pri_suite")))
    bodies = [each.subscription for each in history]
    history = [
        each
        for each, body in zip(history, bodies, strict=True)
        if body is not None and body.items and all([item.quantity for item in body.items])
    ]
    facts = after(*history)
    state = state_of(facts, day=20)
    for app, other in (("crm", "mail"), ("mail", "crm")):
        sections = APPS_TEXT.replace('[policy]\napp = "crm"\n', "").split("\n\n")
        kept = [part for part in sections if f'app = "{other}"' not in part]
        if app == "mail":
            kept.append('[plans.none]\nname = "None"\nrank = 0\ndefault = true')
        theirs = [price for price in APPS_PRICES if price not in "".join(kept)]
        alone = catalog.parse("\n\n".join([*kept, f"[ignore]\nprices.paddle.live = {theirs}"]))
        found = state_of(facts, day=20, using=alone)["apps"][app]
        if found["plan"]["key"] == "none":
            del found["plan"]
        assert state["apps"][app] == found


@given(histories())
def test_a_catalog_without_applications_is_that_of_one_application(history: list[Event]) -> None:
    """The state of the only application is the state without applications."""
    named = catalog.parse(CATALOG_TEXT.replace("\nname =", '\napp = "only"\nname ='))
    plain, within = (
        project(after(*history, using=CATALOG), setting(CATALOG)),
        project(after(*history, using=named), setting(named)),
    )
    stored = codec.encode(after(*history, using=CATALOG))
    assert b'"granted_in"' not in stored
    assert b'"apps"' not in stored
    if isinstance(plain, Unprojectable):
        assert within == plain
        return
    assert isinstance(within, Projected)
    assert "apps" not in plain.state
    assert within.state["apps"] == {"only": plain.state}
    assert {**plain.state, "apps": within.state["apps"]} == within.state
    assert within.valid_until_ns == plain.valid_until_ns


@pytest.mark.parametrize(
    ("policy", "seats", "projects"),
    [
        ("", 5, "unlimited"),
        ('combine = "sum"', 8, "unlimited"),
        ('combine = { seats = "sum" }', 8, "unlimited"),
        ('combine = { "*" = "sum", seats = "max" }', 5, "unlimited"),
    ],
)
def test_two_subscriptions_of_one_plan_have_the_sum_or_the_greater(
    policy: str, seats: int, projects: int | str
) -> None:
    using = catalog.parse(f"[policy]\n{policy}\n{CATALOG_TEXT}")
    two = [
        event("active", 1, [Item("pri_pro", 5)], subscription="sub_1"),
        event("past_due", 2, [Item("pri_pro_yearly", 3)], subscription="sub_2"),
        event("active", 3, [Item("pri_basic", 7)], subscription="sub_3"),
        event("canceled", 4, [Item("pri_pro", 9)], subscription="sub_4"),
    ]
    for events in (two, two[::-1]):
        limits = state_of(*events, using=using)["limits"]
        assert (limits["seats"], limits["projects"]) == (seats, projects)
