"""What facts mean at an instant: precedence, time without webhooks, and what is never granted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.catalog.catalog import Catalog, Policy
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, Unprojectable, project
from sync.billing.domain.facts.instructions import PLAN, Override, ScheduledPlanChange
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.core import instants
from tests.support.histories import BASIC, CATALOG, CATALOG_TEXT, DAY_NS, PRO, START_NS, at, event, histories

APPLY = replace(CATALOG, policy=Policy(overdue=dict.fromkeys(catalog.OVERDUE_KINDS, "apply")))
GRACE_DAYS = 7


def facts_of(*events: Event) -> Facts:
    facts = NOTHING
    for each in events:
        result = reduce(facts, each)
        assert isinstance(result, Reduced)
        facts = result.facts
    return facts


def projected(facts: Facts | Event, day: float, using: Catalog = CATALOG) -> Projected:
    result = project(facts_of(facts) if isinstance(facts, Event) else facts, Setting(using, "live", (), at(day)))
    assert isinstance(result, Projected)
    return result


def state_of(facts: Facts | Event, day: float, using: Catalog = CATALOG) -> dict[str, Any]:
    return projected(facts, day, using).state


def when(day: float) -> str:
    return instants.text(at(day))


def test_nothing_known_is_the_default_plan() -> None:
    assert projected(NOTHING, 0) == Projected(
        {
            "plan": {"key": "free", "name": "Free", "rank": 0},
            "status": "none",
            "features": {"basic": True},
            "limits": {"seats": 1, "projects": 3},
            "modules": {},
        },
        None,
    )


def test_an_active_subscription_grants_its_plan_times_its_quantity() -> None:
    state = state_of(event("active", 1, [Item("pri_audit", 1), Item("pri_pro", 12)], period=(1, 31)), 2)
    assert state == {
        "plan": {"key": "pro", "name": "Pro", "rank": 20},
        "status": "active",
        "features": {"basic": True, "sso": True, "audit": True},
        "limits": {"seats": 12, "projects": "unlimited"},
        "modules": {"analytics": "admin", "billing": "write"},
        "period": {"starts_at": when(1), "ends_at": when(31)},
    }


def test_limits_end_where_a_browser_would_read_another_number() -> None:
    terabyte = "per_unit.limits = { seats = 5, bytes = 1099511627776 }"
    added = "limits = { projects = 10, bytes = 9007199254740991 }"
    text = CATALOG_TEXT.replace("per_unit.limits = { seats = 5 }", terabyte).replace(
        "limits = { projects = 10 }", added
    )
    using = catalog.parse(text)
    assert state_of(event("active", 1, [Item("pri_team", 8191)]), 2, using)["limits"]["bytes"] == 8191 * 2**40
    for items in (
        [Item("pri_team", 8192)],
        [Item("pri_team", 1_000_000_000)],
        [Item("pri_team", 1), Item("pri_seats", 1)],
    ):
        assert state_of(event("active", 1, items), 2, using)["limits"]["bytes"] == 2**53 - 1


def test_two_prices_of_one_plan_in_one_subscription_add_up() -> None:
    assert state_of(event("active", 1, [Item("pri_pro", 2), Item("pri_pro_yearly", 3)]), 2)["limits"]["seats"] == 5


@pytest.mark.parametrize("items", [["pri_team", "pri_pro"], ["pri_pro", "pri_team"]])
def test_equal_ranks_within_one_subscription_go_to_the_key_that_sorts_first(items: list[str]) -> None:
    state = state_of(event("active", 1, [Item(price, 2) for price in items]), 2)
    assert (state["plan"]["key"], state["limits"]["seats"]) == ("pro", 2)


@pytest.mark.parametrize("order", [1, -1])
def test_s18_highest_rank_wins_and_addons_of_all_live_subscriptions_add_up(order: int) -> None:
    facts = facts_of(
        *[
            event("active", 1, [Item("pri_basic", 1), Item("pri_seats", 2)], subscription="sub_1"),
            event("active", 2, [Item("pri_team", 2)], subscription="sub_2"),
            event("trialing", 3, [Item("pri_seats", 4), Item("pri_audit", 1)], subscription="sub_3"),
            event("canceled", 4, [Item("pri_pro", 50), Item("pri_seats", 50)], subscription="sub_4"),
        ][::order]
    )
    state = state_of(facts, 5)
    assert state["plan"]["key"] == "team"
    assert state["status"] == "active"
    assert state["limits"] == {"projects": 120, "seats": 16}
    assert "audit" in state["features"]


@pytest.mark.parametrize(
    ("one", "other", "plan", "seats", "status"),
    [
        # Equal rank: the key that sorts first, pro before team, whatever the quantities.
        (("active", [Item("pri_team", 9)]), ("active", [Item("pri_pro", 1)]), "pro", 1, "active"),
        # Equal plan: the paid one leads, and the larger quantity stays.
        (("active", [Item("pri_pro", 2)]), ("past_due", [Item("pri_pro", 5)]), "pro", 5, "active"),
        (("uncollected", [Item("pri_pro", 9)]), ("active", [Item("pri_pro", 2)]), "pro", 9, "active"),
        (("uncollected", [Item("pri_pro", 2)]), ("past_due", [Item("pri_pro", 5)]), "pro", 5, "paused"),
        # Equal quantity: active before trialing before past_due.
        (("past_due", [Item("pri_pro", 2)]), ("trialing", [Item("pri_pro", 2)]), "pro", 2, "trialing"),
        (("trialing", [Item("pri_pro", 2)]), ("active", [Item("pri_pro", 2)]), "pro", 2, "active"),
        # A subscription of add-ons alone leaves the default plan and leads only by default.
        (("active", [Item("pri_seats", 2)]), ("canceled", [Item("pri_pro", 2)]), "free", 3, "active"),
        (("active", [Item("pri_seats", 2)]), ("trialing", [Item("pri_basic", 1)]), "basic", 4, "trialing"),
    ],
)
def test_ties_are_broken_as_stated(
    one: tuple[str, Sequence[Item]], other: tuple[str, Sequence[Item]], plan: str, seats: int, status: str
) -> None:
    for first, second in ((one, other), (other, one)):
        facts = facts_of(
            event(*first_args(first, 1), subscription="sub_1"), event(*first_args(second, 2), subscription="sub_2")
        )
        state = state_of(facts, 3)
        assert (state["plan"]["key"], state["limits"]["seats"], state["status"]) == (plan, seats, status)


@pytest.mark.parametrize("troubled", ["past_due", "uncollected"])
@pytest.mark.parametrize(
    ("created", "is_newer"),
    [((1, 2), True), ((2, 1), False), ((1, 1), True), ((None, 1), False), ((1, None), True), ((None, None), True)],
)
def test_the_status_is_that_of_a_newer_plan_that_is_paid(
    created: tuple[int | None, int | None], is_newer: bool, troubled: str
) -> None:
    """The higher plan stays in its grace. Without a time of creation that of the first event counts."""
    higher, lower = event(troubled, 3, PRO), event("active", 3, BASIC, subscription="sub_2")
    facts = facts_of(
        *[
            replace(each, subscription=replace(each.subscription, created_ns=None if days is None else at(days)))
            for each, days in zip((higher, lower), created, strict=True)
            if each.subscription is not None
        ]
    )
    state = state_of(facts, 4)
    word = "paused" if troubled == "uncollected" else troubled
    assert (state["plan"]["key"], state["status"]) == ("pro", "active" if is_newer else word)
    assert ("grace_ends_at" in state) is (not is_newer and troubled == "past_due")


@pytest.mark.parametrize(("troubled", "shown"), [("uncollected", "incomplete"), ("past_due", "past_due")])
def test_who_is_just_paying_is_not_shown_as_paused(troubled: str, shown: str) -> None:
    """The plan whose collection is paused stays. A failed payment is still shown: its grace runs."""
    paying = event("incomplete", 3, PRO, subscription="sub_2")
    for facts in (facts_of(event(troubled, 2, BASIC), paying), facts_of(paying, event(troubled, 2, BASIC))):
        state = state_of(facts, 4)
        assert (state["plan"]["key"], state["status"]) == ("basic", shown)
    newer = event(troubled, 4, BASIC, subscription="sub_3")
    assert state_of(facts_of(paying, newer), 5)["status"] == ("paused" if troubled == "uncollected" else troubled)


def first_args(pair: tuple[str, Sequence[Item]], day: float) -> tuple[str, float, Sequence[Item]]:
    return pair[0], day, pair[1]


def test_s16_s17_an_ended_subscription_never_takes_from_another() -> None:
    facts = facts_of(
        event("active", 3, PRO, subscription="sub_new"), event("canceled", 9, BASIC, subscription="sub_old")
    )
    state = state_of(facts, 10)
    assert (state["plan"]["key"], state["status"]) == ("pro", "active")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["canceled", "paused"], "paused"),
        (["paused", "past_due"], "past_due"),
        (["canceled"], "canceled"),
        (["expired"], "none"),
        (["expired", "canceled"], "canceled"),
        (["unpaid", "paused"], "unpaid"),
        (["unpaid", "past_due"], "past_due"),
        (["past_due", "incomplete", "canceled"], "incomplete"),
    ],
)
def test_without_a_live_subscription_the_default_plan_stands(statuses: list[str], expected: str) -> None:
    facts = facts_of(*(event(status, 1, subscription=f"sub_{status}", id=status) for status in statuses))
    state = state_of(facts, 100)
    assert (state["plan"]["key"], state["status"]) == ("free", expected)
    assert "period" not in state


def test_s10_s11_s12_a_failed_renewal_is_grace_from_its_first_sign_then_nothing() -> None:
    renewal = (event("active", 30, period=(30, 60)), event("past_due", 30.001, period=(30, 60)))
    facts = facts_of(*renewal, event("past_due", 31, period=(30, 60)))
    ends = 30.001 + GRACE_DAYS
    during = projected(facts, ends - 0.001)
    assert during.state["plan"]["key"] == "pro"
    assert during.state["status"] == "past_due"
    assert during.state["grace_ends_at"] == during.state["valid_until"] == when(ends)
    assert during.valid_until_ns == at(ends)
    assert "period" not in during.state
    after = projected(facts, ends)
    assert after.state["plan"]["key"] == "free"
    assert after.state["status"] == "past_due"
    assert after.state["grace_ends_at"] == when(ends)
    assert after.valid_until_ns is None


@pytest.mark.parametrize(
    ("action", "status"),
    [(("cancel", 10), "canceled"), (("pause", 10), "paused")],
)
def test_s13_s15_a_scheduled_end_is_seen_before_and_held_or_applied_after(
    action: tuple[str, float], status: str
) -> None:
    facts = facts_of(event("active", 1, period=(1, 10), scheduled=action))
    before = projected(facts, 9)
    shown = {"action": action[0], "effective_at": when(10), "source": "provider", "overdue": False}
    assert before.state["plan"]["key"] == "pro"
    assert before.state["scheduled"] == shown
    assert before.state["valid_until"] == when(10)
    held = projected(facts, 10)
    assert (held.state["plan"]["key"], held.state["status"]) == ("pro", "active")
    assert held.state["scheduled"] == {**shown, "overdue": True}
    assert held.state["pending"] == {"reason": "awaiting_provider", "since": when(10)}
    assert held.valid_until_ns is None
    applied = state_of(facts, 10, APPLY)
    assert (applied["plan"]["key"], applied["status"]) == ("free", status)
    assert applied["pending"] == {"reason": "awaiting_provider", "since": when(10)}
    assert "period" not in applied


def test_s14_removing_the_schedule_removes_it_even_if_its_event_comes_late() -> None:
    scheduled, removed = event("active", 1, scheduled=("cancel", 10)), event("active", 2)
    assert "scheduled" not in state_of(facts_of(scheduled, removed), 3)
    assert "scheduled" not in state_of(facts_of(removed, scheduled), 3)


def test_s22_a_pause_with_an_end_comes_back_by_itself_when_applied() -> None:
    facts = facts_of(event("active", 1, scheduled=("pause", 10, 20)))
    assert state_of(facts, 9)["scheduled"]["resume_at"] == when(20)
    paused = projected(facts, 10, APPLY)
    assert (paused.state["status"], paused.valid_until_ns) == ("paused", at(20))
    assert state_of(facts, 20, APPLY)["status"] == "active"
    resuming = facts_of(event("paused", 10, scheduled=("resume", 20)))
    assert state_of(resuming, 20)["status"] == "paused"
    assert state_of(resuming, 20)["scheduled"]["overdue"] is True
    assert state_of(resuming, 20, APPLY)["plan"]["key"] == "pro"


def test_a_trial_ends_as_the_policy_says() -> None:
    facts = facts_of(event("trialing", 1, trial_ends=15, period=(1, 15)))
    during = projected(facts, 14)
    assert (during.state["status"], during.state["trial_ends_at"]) == ("trialing", when(15))
    assert during.valid_until_ns == at(15)
    held = state_of(facts, 15)
    assert (held["plan"]["key"], held["pending"]["since"]) == ("pro", when(15))
    applied = state_of(facts, 15, APPLY)
    assert (applied["plan"]["key"], applied["status"]) == ("free", "past_due")


def test_s36_an_unknown_price_of_a_live_subscription_is_not_projected() -> None:
    facts = facts_of(event("active", 1, [Item("pri_new", 1)]))
    assert project(facts, Setting(CATALOG, "live", (), at(2))) == Unprojectable("unknown price pri_new in live")
    ended = facts_of(event("canceled", 1, [Item("pri_new", 1)]))
    assert isinstance(project(ended, Setting(CATALOG, "live", (), at(2))), Projected)


def test_prices_belong_to_one_environment() -> None:
    facts = facts_of(event("active", 1))
    assert project(facts, Setting(CATALOG, "sandbox", (), at(2))) == Unprojectable(
        "unknown price pri_pro in sandbox; the catalog has pri_pro for live"
    )


class TestHeldChange:
    """A plan change that we hold because the provider cannot."""

    HELD = ScheduledPlanChange("paddle:sub_1", "basic", at(10), PRO)

    @pytest.mark.parametrize("items", [PRO, BASIC])
    def test_s19_every_reader_sees_the_higher_plan_until_the_change(self, items: tuple[Item, ...]) -> None:
        facts = replace(facts_of(event("active", 1, items)), scheduled_changes=(self.HELD,))
        before = projected(facts, 9)
        assert (before.state["plan"]["key"], before.state["limits"]["seats"]) == ("pro", 3)
        assert before.state["scheduled"] == {
            "action": "change_plan",
            "plan": "basic",
            "effective_at": when(10),
            "source": "app",
            "overdue": False,
        }
        assert before.valid_until_ns == at(10)

    def test_it_is_done_when_the_items_show_the_plan_after_its_time(self) -> None:
        state = state_of(replace(facts_of(event("active", 1, BASIC)), scheduled_changes=(self.HELD,)), 10)
        assert state["plan"]["key"] == "basic"
        assert "scheduled" not in state

    def test_it_is_overdue_while_the_items_do_not(self) -> None:
        facts = replace(facts_of(event("active", 1, PRO)), scheduled_changes=(self.HELD,))
        state = state_of(facts, 10)
        assert (state["plan"]["key"], state["scheduled"]["overdue"]) == ("pro", True)
        assert state["pending"]["since"] == when(10)
        assert state_of(facts, 10, APPLY)["plan"]["key"] == "basic"

    def test_s20_an_upgrade_voids_it(self) -> None:
        held = replace(self.HELD, keep=BASIC, plan="free")
        facts = replace(facts_of(event("active", 1, PRO)), scheduled_changes=(held,))
        for day in (9, 11):
            state = state_of(facts, day, APPLY)
            assert state["plan"]["key"] == "pro"
            assert "scheduled" not in state

    def test_s20_a_cancel_before_it_is_what_is_scheduled(self) -> None:
        facts = replace(facts_of(event("active", 1, PRO, scheduled=("cancel", 8))), scheduled_changes=(self.HELD,))
        assert state_of(facts, 7)["scheduled"]["action"] == "cancel"
        ended = replace(facts_of(event("canceled", 8, PRO)), scheduled_changes=(self.HELD,))
        assert state_of(ended, 11, APPLY)["plan"]["key"] == "free"

    def test_a_plan_that_left_the_catalog_is_not_changed_to(self) -> None:
        facts = replace(facts_of(event("active", 1, PRO)), scheduled_changes=(replace(self.HELD, plan="gone"),))
        assert state_of(facts, 11, APPLY)["plan"]["key"] == "pro"


def test_overrides_come_last_and_end_by_time() -> None:
    overrides = (
        Override("feature", "beta", True, "asked for it", at(10)),
        Override("feature", "sso", None, "abuse"),
        Override("limit", "seats", 99, "sales"),
        Override("module", "billing", None, "sales"),
        Override("module", "absent", None, "nothing to take"),
    )
    facts = replace(facts_of(event("active", 1)), overrides=overrides)
    before = projected(facts, 9)
    assert before.state["features"] == {"basic": True, "beta": True}
    assert before.state["limits"]["seats"] == 99
    assert before.state["modules"] == {"analytics": "write"}
    assert before.valid_until_ns == at(10)
    assert "beta" not in state_of(facts, 10)["features"]


class TestOtherSoftware:
    """Items that the catalog ignores: other software on the same provider account sells them."""

    IGNORING = catalog.parse(
        CATALOG_TEXT + '[ignore]\nprices.paddle.live = ["pri_theirs"]\nproducts.paddle.live = ["pro_theirs"]'
    )
    THEIRS = Item("pri_theirs", 1)

    def test_they_are_skipped_beside_known_ones(self) -> None:
        mixed = event("active", 1, (*PRO, self.THEIRS))
        assert state_of(mixed, 2, self.IGNORING) == state_of(event("active", 1), 2)

    def test_a_subscription_that_has_become_theirs_counts_no_longer(self) -> None:
        facts = facts_of(event("active", 1, BASIC), event("active", 2, (self.THEIRS,)))
        assert state_of(facts, 3, self.IGNORING) == state_of(NOTHING, 3)
        assert isinstance(project(facts, Setting(CATALOG, "live", (), at(3))), Unprojectable)

    def test_a_product_stands_for_all_its_prices_but_not_for_those_of_a_plan(self) -> None:
        theirs = event("active", 1, (Item("pri_new", 1),))
        assert theirs.subscription is not None
        body = replace(theirs.subscription, products={"pri_new": "pro_theirs"})
        assert state_of(replace(theirs, subscription=body), 2, self.IGNORING) == state_of(NOTHING, 2)
        ours = replace(body, items=PRO, products={"pri_pro": "pro_theirs"})
        assert state_of(replace(theirs, subscription=ours), 2, self.IGNORING)["plan"]["key"] == "pro"


class TestGrantedPlan:
    """A plan that an operator grants beside billing."""

    def granted(
        self, plan: str = "pro", value: bool | int = True, ends: float | None = 10, trial: bool = False
    ) -> Facts:
        ends_ns = None if ends is None else at(ends)
        return Facts(overrides=(Override(PLAN, plan, value, "promised", ends_ns, trial=trial),))

    def test_it_counts_until_its_end_and_then_what_is_paid_for(self) -> None:
        facts = replace(facts_of(event("active", 1, BASIC)), overrides=self.granted().overrides)
        before = projected(facts, 9)
        assert (before.state["plan"]["key"], before.state["status"]) == ("pro", "active")
        assert before.state["features"] == {"basic": True, "export": True, "sso": True}
        assert before.state["limits"] == {"seats": 2, "projects": "unlimited"}
        assert before.state["modules"] == {"analytics": "write", "billing": "write"}
        assert before.state["grant"] == {"plan": "pro", "ends_at": when(10)}
        assert (before.valid_until_ns, before.state["valid_until"]) == (at(10), when(10))
        assert state_of(facts, 10) == state_of(event("active", 1, BASIC), 10)

    def test_its_units_are_those_paid_for_unless_it_has_its_own(self) -> None:
        basic = facts_of(event("active", 1, (Item("pri_basic", 7),)))
        seats = [
            state_of(replace(basic, overrides=self.granted(value=value).overrides), 9)["limits"]["seats"]
            for value in (True, 1, 30)
        ]
        assert seats == [7, 2, 30]
        assert state_of(self.granted(), 9)["limits"]["seats"] == 1

    @pytest.mark.parametrize(("trial", "status"), [(False, "active"), (True, "trialing")])
    def test_without_a_subscription_it_is_active_or_a_trial(self, trial: bool, status: str) -> None:
        shown = state_of(self.granted(trial=trial), 9)
        assert (shown["plan"]["key"], shown["status"], shown.get("trial_ends_at")) == (
            "pro",
            status,
            when(10) if trial else None,
        )
        assert state_of(self.granted(trial=trial), 10) == state_of(NOTHING, 10)

    @pytest.mark.parametrize(
        ("status", "shown"), [("canceled", "active"), ("paused", "paused"), ("past_due", "past_due")]
    )
    def test_a_payment_that_is_awaited_stays_visible(self, status: str, shown: str) -> None:
        facts = replace(facts_of(event(status, 1)), overrides=self.granted(ends=None).overrides)
        state = state_of(facts, 1 + GRACE_DAYS)
        assert (state["plan"]["key"], state["status"], state["grant"]) == ("pro", shown, {"plan": "pro"})

    def test_one_below_what_is_paid_for_takes_nothing(self) -> None:
        facts = replace(facts_of(event("active", 1)), overrides=self.granted("basic").overrides)
        state = state_of(facts, 9)
        assert (state["plan"]["key"], state["features"]["export"], "grant" in state) == ("pro", True, False)

    def test_a_plan_that_left_the_catalog_is_not_dropped_silently(self) -> None:
        without = catalog.parse(CATALOG_TEXT.replace("[plans.pro]", "[plans.gold]"))
        assert project(self.granted(), Setting(without, "live", (), at(9))) == Unprojectable(
            "unknown price plan:pro in live"
        )
        assert state_of(self.granted(), 10, without)["plan"]["key"] == "free"

    @given(st.permutations(["basic", "team", "pro"]), histories(), st.integers(0, 30))
    def test_it_only_adds_in_any_order(self, plans: list[str], events: list[Event], day: int) -> None:
        facts = NOTHING
        for each in events:
            result = reduce(facts, each)
            facts = result.facts if isinstance(result, Reduced) else facts
        paid = state_of(facts, day)
        grants = tuple(Override(PLAN, plan, True, "x", at(9 + len(plan))) for plan in plans)
        state = state_of(replace(facts, overrides=grants), day)
        assert state == state_of(replace(facts, overrides=tuple(sorted(grants, key=lambda one: one.name))), day)
        assert state["plan"]["rank"] >= paid["plan"]["rank"]
        assert state["features"].items() >= paid["features"].items()
        amounts = {name: float("inf") if limit == "unlimited" else limit for name, limit in state["limits"].items()}
        for name, limit in paid["limits"].items():
            assert amounts[name] >= (float("inf") if limit == "unlimited" else limit)
        for name, level in paid["modules"].items():
            assert catalog.LEVELS.index(state["modules"][name]) >= catalog.LEVELS.index(level)


@given(histories(), st.integers(0, 30), st.sampled_from([CATALOG, APPLY]))
def test_the_state_holds_until_valid_until(events: list[Event], day: int, using: Catalog) -> None:
    """Nothing but `valid_until` may change at any instant before the one that was promised."""
    facts = NOTHING
    for each in events:
        result = reduce(facts, each)
        facts = result.facts if isinstance(result, Reduced) else facts
    now = projected(facts, day, using)
    until_ns = now.valid_until_ns if now.valid_until_ns is not None else START_NS + 5000 * DAY_NS
    assert until_ns > at(day)
    last = project(facts, Setting(using, "live", (), until_ns - 1))
    assert last == now
    assert None not in _values(now.state)


def _values(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _values(inner)]
    return [value]
