from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sync.simulator.world import rules
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import DAY_US, MINUTE_US, SECOND_US, Period, Price, Subscription, Transaction
from sync.simulator.world.offers import BillingMode
from sync.simulator.world.rules import LOCK_US, QUANTITY_MAX, Patch
from sync.simulator.world.turn import EVENTS_KEPT, Outcome
from tests.support.world import LIVE, START_US, Play, kinds, price_id


def lines(*wanted: tuple[str, int]) -> tuple[tuple[Price, int], ...]:
    return tuple((price, quantity) for key, quantity in wanted if (price := LIVE.price(price_id(key))) is not None)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as error:
        act()
    return error.value.code


def test_a_checkout_is_created_activated_and_paid() -> None:
    outcome = Play().do("upgrade", plan="pro", quantity=3)

    assert kinds(outcome) == ["created", "activated", "transaction.completed"]
    assert outcome.subscription.status == "active"
    assert outcome.subscription.custom_data == {"tenant_id": "acme"}
    assert outcome.subscription.next_us == Period.month(START_US).ends_us


def test_the_created_event_names_the_checkout_s_transaction() -> None:
    created, activated, paid = Play().do("upgrade").events

    assert created.transaction_id == paid.data.id
    assert activated.transaction_id is None


def test_created_and_activated_carry_the_same_updated_at() -> None:
    created, activated, _ = Play().do("upgrade").events

    assert created.data == activated.data
    assert created.occurred_us < activated.occurred_us


def test_stamps_rise_though_the_clock_stands_still() -> None:
    play = Play()
    for tenant in ("a", "b", "c"):
        play.now_us = START_US
        play.do("upgrade", tenant)

    stamps = [event.occurred_us for event in play.world.events]
    assert stamps == sorted(set(stamps))


def test_event_ids_rise_in_the_order_of_the_events() -> None:
    play = Play()
    for tenant in ("a", "b", "c"):
        play.do("upgrade", tenant)

    assert [event.id for event in play.world.events] == sorted({event.id for event in play.world.events})


def test_a_trial_is_created_trialing_and_free() -> None:
    outcome = Play().do("trial", days=14)

    assert kinds(outcome) == ["created", "trialing", "transaction.completed"]
    paid = outcome.events[-1].data
    assert isinstance(paid, Transaction)
    assert paid.amount == 0
    assert outcome.subscription.first_billed_us is None
    assert outcome.subscription.trial == Period(START_US, START_US + 14 * DAY_US)


def test_a_failed_renewal_is_told_in_three_events() -> None:
    play = Play()
    before = play.subscribed()

    outcome = play.do("past_due")

    assert kinds(outcome) == ["updated", "updated", "past_due"]
    looks_paid, overdue, again = [event.data for event in outcome.events]
    assert isinstance(looks_paid, Subscription)
    assert (looks_paid.status, overdue, again) == ("active", outcome.subscription, outcome.subscription)
    assert outcome.subscription.status == "past_due"
    assert looks_paid.period == outcome.subscription.period != before.period
    assert looks_paid.updated_us < outcome.subscription.updated_us


def test_recovering_pays_the_period_that_is_overdue() -> None:
    play = Play()
    play.subscribed()
    overdue = play.do("past_due").subscription

    outcome = play.do("recover")

    assert kinds(outcome) == ["transaction.completed", "updated"]
    assert (outcome.subscription.status, outcome.subscription.period) == ("active", overdue.period)
    assert not outcome.subscription.declines


def test_a_cancel_is_scheduled_and_happens_at_the_period_s_end() -> None:
    play = Play()
    before = play.subscribed()

    scheduled = play.do("cancel")
    assert kinds(scheduled) == ["updated"]
    assert scheduled.subscription.status == "active"
    assert scheduled.subscription.scheduled is not None
    assert scheduled.subscription.scheduled.effective_us == before.period.ends_us
    assert scheduled.subscription.bills_us is None

    assert play.world.due(before.period.ends_us - 1) == ()
    assert play.world.due(before.period.ends_us) == (before.id,)
    ended = play.do("renew")
    assert kinds(ended) == ["canceled", "updated"]
    assert ended.subscription.status == "canceled"
    assert ended.subscription.items == before.items
    assert ended.world.due(before.period.ends_us * 2) == ()


def test_a_pause_with_an_end_comes_back_by_itself() -> None:
    play = Play()
    subscription = play.subscribed()
    back_us = play.now_us + DAY_US

    paused = play.keep(rules.pause(play.turn(), play.current(subscription), True, back_us, "start_new_billing_period"))
    assert kinds(paused) == ["paused", "updated"]
    assert paused.subscription.scheduled is not None
    assert paused.subscription.scheduled.action == "resume"

    play.now_us = back_us
    assert play.world.due(back_us) == (subscription.id,)
    back = play.do("renew")
    assert kinds(back) == ["resumed", "updated", "transaction.completed"]
    assert (back.subscription.status, back.subscription.paused_us) == ("active", None)
    assert back.subscription.period.starts_us == back.subscription.updated_us


def test_a_resume_can_continue_the_period() -> None:
    play = Play()
    before = play.subscribed()
    play.do("pause", when="now")

    back = rules.resume(play.turn(), play.current(before), None, "continue_existing_billing_period")

    assert kinds(back) == ["resumed", "updated"]
    assert back.subscription.period == before.period


def test_a_period_that_is_over_is_not_continued() -> None:
    play = Play()
    before = play.subscribed()
    play.do("pause", when="now")
    late_us = before.period.ends_us

    back = rules.resume(play.turn(late_us), play.current(before), None, "continue_existing_billing_period")

    assert back.subscription.period.starts_us == late_us


def test_a_resume_can_be_set_for_later() -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("pause", when="now")
    at_us = play.now_us + DAY_US

    outcome = rules.resume(play.turn(), play.current(subscription), at_us, "start_new_billing_period")

    assert outcome.subscription.status == "paused"
    assert outcome.world.due(at_us) == (subscription.id,)


def test_the_end_of_a_pause_to_come_can_be_set() -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("pause")
    at_us = subscription.period.ends_us + DAY_US

    outcome = rules.resume(play.turn(), play.current(subscription), at_us, "start_new_billing_period")

    assert outcome.subscription.scheduled is not None
    assert (outcome.subscription.scheduled.action, outcome.subscription.scheduled.resume_us) == ("pause", at_us)


def test_a_renewal_bills_the_next_month() -> None:
    play = Play()
    before = play.subscribed()
    play.now_us = before.period.ends_us + 5 * SECOND_US

    outcome = play.do("renew")

    assert kinds(outcome) == ["updated", "transaction.completed"]
    assert outcome.subscription.period == Period.month(before.period.ends_us)


def test_a_renewal_ahead_of_time_starts_the_month_now() -> None:
    play = Play()
    play.subscribed()
    now_us = play.now_us

    assert play.do("renew").subscription.period == Period.month(now_us)


def test_a_declined_card_makes_the_renewal_fail() -> None:
    play = Play()
    play.subscribed()

    assert kinds(play.do("decline")) == []
    assert kinds(play.do("renew")) == ["updated", "updated", "past_due"]


def test_a_declined_card_makes_the_end_of_a_trial_fail() -> None:
    play = Play()
    play.do("trial")
    play.do("decline")

    assert kinds(play.do("activate")) == ["updated", "updated", "past_due"]


def test_activating_ends_the_trial() -> None:
    play = Play()
    play.do("trial")

    outcome = play.do("activate")

    assert kinds(outcome) == ["activated", "updated", "transaction.completed"]
    assert outcome.subscription.first_billed_us == outcome.subscription.updated_us


def test_a_trial_that_runs_out_is_activated() -> None:
    play = Play()
    trial = play.do("trial").subscription
    play.now_us = trial.period.ends_us

    assert play.world.due(play.now_us) == (trial.id,)
    assert play.do("renew").subscription.status == "active"


def test_an_update_replaces_all_lines() -> None:
    play = Play()
    subscription = play.subscribed("pro", 2)
    patch = Patch(lines=lines(("pro", 5), ("audit", 1)), mode="prorated_immediately")

    outcome = rules.update(play.turn(), play.current(subscription), patch)

    assert [(item.price.name, item.quantity) for item in outcome.subscription.items] == [("Pro", 5), ("Audit log", 1)]
    assert outcome.subscription.items[0].created_us == subscription.items[0].created_us
    assert kinds(outcome) == ["updated", "transaction.completed"]


@pytest.mark.parametrize("mode", ["do_not_bill", "prorated_next_billing_period", "full_next_billing_period"])
def test_a_change_that_is_billed_later_is_not_paid_now(mode: BillingMode) -> None:
    play = Play()
    subscription = play.subscribed("basic")

    outcome = rules.update(play.turn(), play.current(subscription), Patch(lines=lines(("pro", 1)), mode=mode))

    assert kinds(outcome) == ["updated"]


def test_a_change_to_less_is_not_paid_for() -> None:
    play = Play()
    play.subscribed("pro")

    assert kinds(play.do("downgrade")) == ["updated"]


def test_a_declined_charge_prevents_the_change() -> None:
    play = Play()
    subscription = play.subscribed("basic")
    play.do("decline")
    before = play.world

    patch = Patch(lines=lines(("pro", 1)), mode="prorated_immediately")
    assert refused(lambda: rules.update(play.turn(), play.current(subscription), patch)) == (
        "subscription_payment_declined"
    )
    assert play.world is before


def test_a_declined_charge_that_does_not_prevent_the_change_makes_it_past_due() -> None:
    play = Play()
    subscription = play.subscribed("basic")
    play.do("decline")
    patch = Patch(lines=lines(("pro", 1)), mode="prorated_immediately", prevents_on_decline=False)

    outcome = rules.update(play.turn(), play.current(subscription), patch)

    assert kinds(outcome) == ["updated", "past_due"]
    assert [item.price.name for item in outcome.subscription.items] == ["Pro"]


def test_items_cannot_change_while_past_due() -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("past_due")
    patch = Patch(lines=lines(("basic", 1)), mode="do_not_bill")

    assert refused(lambda: rules.update(play.turn(), play.current(subscription), patch)) == (
        "subscription_update_when_past_due"
    )


def test_custom_data_can_change_while_past_due() -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("past_due")
    patch = Patch(sets_custom_data=True, custom_data={"tenant_id": "other"})

    outcome = rules.update(play.turn(), play.current(subscription), patch)

    assert outcome.subscription.custom_data == {"tenant_id": "other"}


@pytest.mark.parametrize(("before_bill_us", "locked"), [(LOCK_US + 1, False), (LOCK_US, True), (MINUTE_US, True)])
def test_items_cannot_change_within_thirty_minutes_of_the_bill(before_bill_us: int, locked: bool) -> None:
    play = Play()
    subscription = play.subscribed()
    now_us = subscription.next_us - before_bill_us
    patch = Patch(lines=lines(("basic", 1)), mode="prorated_immediately")

    def act() -> Outcome:
        return rules.update(play.turn(now_us), play.current(subscription), patch)

    if locked:
        assert refused(act) == "subscription_locked_renewal"
    else:
        assert act().subscription.items[0].price.name == "Basic"


@pytest.mark.parametrize(
    ("mode", "allowed"),
    [
        ("do_not_bill", True),
        ("full_immediately", True),
        ("prorated_immediately", True),
        ("full_next_billing_period", False),
        ("prorated_next_billing_period", False),
    ],
)
def test_a_scheduled_change_limits_the_billing_modes(mode: BillingMode, allowed: bool) -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("cancel")
    patch = Patch(lines=lines(("basic", 1)), mode=mode)

    if allowed:
        outcome = rules.update(play.turn(), play.current(subscription), patch)
        assert outcome.subscription.scheduled is not None
    else:
        assert refused(lambda: rules.update(play.turn(), play.current(subscription), patch)) == (
            "subscription_invalid_billing_mode_for_scheduled_change"
        )


def test_removing_the_scheduled_change_frees_the_billing_modes() -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("cancel")
    patch = Patch(lines=lines(("basic", 1)), mode="full_next_billing_period", clears_schedule=True)

    assert rules.update(play.turn(), play.current(subscription), patch).subscription.scheduled is None


BASIC = Patch(lines=lines(("basic", 1)), mode="prorated_immediately")


@pytest.mark.parametrize(
    ("setup", "patch", "code"),
    [
        (["cancel_now"], BASIC, "subscription_update_when_canceled"),
        (["pause_now"], BASIC, "subscription_incorrect_proration_on_paused_subscription"),
        (
            ["pause_now"],
            Patch(next_us=START_US + DAY_US, mode="do_not_bill"),
            "subscription_only_update_items_on_paused_subscription",
        ),
        ([], Patch(lines=lines(("basic", 1))), "subscription_items_update_missing_proration_billing_mode"),
        ([], replace(BASIC, lines=()), "subscription_all_items_removed"),
        ([], replace(BASIC, lines=lines(("basic", 1), ("basic", 2))), "subscription_duplicate_price_ids"),
        ([], replace(BASIC, lines=lines(("basic", 0))), "subscription_quantity_not_valid"),
        ([], replace(BASIC, lines=lines(("basic", QUANTITY_MAX + 1))), "subscription_quantity_not_valid"),
        ([], Patch(next_us=START_US + LOCK_US, mode="do_not_bill"), "subscription_next_billed_at_too_soon"),
    ],
)
def test_updates_that_paddle_refuses(setup: list[str], patch: Patch, code: str) -> None:
    play = Play()
    subscription = play.subscribed()
    for step in setup:
        play.do(step.removesuffix("_now"), when="now")

    assert refused(lambda: rules.update(play.turn(), play.current(subscription), patch)) == code


def test_a_trial_s_items_change_without_a_bill_only() -> None:
    play = Play()
    trial = play.do("trial").subscription

    assert refused(lambda: rules.update(play.turn(), play.current(trial), BASIC)) == (
        "subscription_trialing_items_update_invalid_options"
    )


def test_moving_the_next_bill_moves_the_end_of_the_trial() -> None:
    play = Play()
    trial = play.do("trial").subscription
    to_us = play.now_us + 30 * DAY_US

    outcome = rules.update(play.turn(), play.current(trial), Patch(next_us=to_us, mode="do_not_bill"))

    assert outcome.subscription.trial is not None
    assert (outcome.subscription.trial.ends_us, outcome.subscription.next_us) == (to_us, to_us)


@pytest.mark.parametrize(
    ("setup", "action", "code"),
    [
        (["cancel"], "cancel", "subscription_locked_pending_changes"),
        (["pause"], "cancel", "subscription_locked_pending_changes"),
        (["cancel"], "pause", "subscription_locked_pending_changes"),
        ([], "resume", "subscription_must_be_paused"),
        ([], "activate", "subscription_cannot_activate"),
        ([], "recover", "invalid_field"),
        (["past_due"], "renew", "subscription_not_active"),
        (["past_due"], "past_due", "subscription_not_active"),
    ],
)
def test_actions_that_paddle_refuses(setup: list[str], action: str, code: str) -> None:
    play = Play()
    play.subscribed()
    for step in setup:
        play.do(step)

    assert refused(lambda: play.do(action)) == code


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "decline"])
def test_a_canceled_subscription_takes_no_action(action: str) -> None:
    play = Play()
    subscription = play.subscribed()
    play.do("cancel", when="now")

    assert refused(lambda: play.do(action, subscription_id=subscription.id)) == (
        "subscription_is_canceled_action_invalid"
    )


def test_canceling_at_once_overrides_a_scheduled_change() -> None:
    play = Play()
    play.subscribed()
    play.do("pause")

    outcome = play.do("cancel", when="now")

    assert (outcome.subscription.status, outcome.subscription.scheduled) == ("canceled", None)


def test_a_paused_subscription_is_canceled_at_once() -> None:
    play = Play()
    play.subscribed()
    play.do("pause", when="now")

    assert play.do("cancel").subscription.status == "canceled"


@pytest.mark.parametrize("at_us", [START_US, START_US - 1])
def test_a_pause_cannot_end_before_it_begins(at_us: int) -> None:
    play = Play()
    subscription = play.subscribed()

    assert refused(
        lambda: rules.pause(play.turn(), play.current(subscription), True, at_us, "start_new_billing_period")
    ) == ("invalid_field")


def test_moving_the_end_moves_what_is_scheduled_for_it() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")
    now_us = play.now_us

    outcome = play.do("period", ends_in_s=5)

    assert outcome.subscription.scheduled is not None
    assert outcome.subscription.scheduled.effective_us == now_us + 5 * SECOND_US == outcome.subscription.period.ends_us


def test_only_the_newest_events_are_remembered() -> None:
    play = Play()
    first = play.do("upgrade").events[0]
    for _ in range(EVENTS_KEPT):
        newest = play.do("seats", quantity=2).events[-1]

    assert len(play.world.events) == EVENTS_KEPT
    assert first not in play.world.events
    assert play.world.events[-1] == newest


def test_an_action_leaves_the_world_it_was_given() -> None:
    play = Play()
    play.subscribed()
    before = play.world
    kept = (dict(before.subscriptions), before.events, before.stamp_us)

    play.do("cancel")

    assert (dict(before.subscriptions), before.events, before.stamp_us) == kept


def test_the_world_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SUBSCRIPTIONS_MAX", 1)
    play = Play()
    play.subscribed()

    with pytest.raises(ApiError, match="at most 1 subscriptions"):
        play.do("upgrade", "other")
