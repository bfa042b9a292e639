from __future__ import annotations

import pytest
from pydantic import JsonValue

from sync.billing.catalog import catalog
from sync.simulator.world import actions, offers
from sync.simulator.world.actions import ACTIONS
from sync.simulator.world.errors import ApiError, ControlError
from sync.simulator.world.scene import Scene
from tests.support.world import Play, held, kinds


def problem(play: Play, action: str, **params: JsonValue) -> ControlError:
    before = play.world
    with pytest.raises(ControlError) as error:
        play.do(action, "acme", "live", **params)
    assert play.world is before
    assert "\n" not in str(error.value)
    return error.value


def test_the_contract_s_actions_are_there() -> None:
    promised = (
        "upgrade downgrade cancel uncancel pause resume past_due recover trial activate seats addon remove_addon renew"
    )

    assert set(promised.split()) <= set(ACTIONS)


def test_upgrade_buys_the_next_plan_up() -> None:
    play = Play()

    assert held(play.do("upgrade")) == {"Basic": 1}
    assert held(play.do("upgrade")) == {"Pro": 1}
    assert problem(play, "upgrade").code == "no_higher_plan"


def test_upgrade_goes_straight_to_a_plan() -> None:
    assert held(Play().do("upgrade", plan="pro", quantity=4)) == {"Pro": 4}


def test_a_change_of_plan_keeps_seats_and_add_ons() -> None:
    play = Play()
    play.do("upgrade", quantity=4)
    play.do("addon", addon="audit")

    assert held(play.do("upgrade")) == {"Pro": 4, "Audit log": 1}
    assert held(play.do("downgrade")) == {"Basic": 4, "Audit log": 1}


def test_downgrade_to_the_default_plan_is_a_cancel() -> None:
    play = Play()
    play.do("upgrade")

    outcome = play.do("downgrade")

    assert outcome.subscription.scheduled is not None
    assert outcome.subscription.scheduled.action == "cancel"


def test_downgrade_to_the_default_plan_at_once() -> None:
    play = Play()
    play.subscribed("pro")

    assert play.do("downgrade", plan="free", when="now").subscription.status == "canceled"


def test_after_the_end_an_upgrade_buys_anew() -> None:
    play = Play()
    first = play.subscribed()
    play.do("cancel", when="now")

    again = play.do("upgrade")

    assert kinds(again)[0] == "created"
    assert again.subscription.id != first.id


def test_a_tenant_can_have_a_second_subscription() -> None:
    play = Play()
    first = play.subscribed("basic")

    second = play.do("upgrade", new=True, plan="pro").subscription

    assert second.id != first.id
    assert play.do("cancel").subscription.id == second.id
    assert play.do("cancel", subscription_id=first.id).subscription.id == first.id


def test_a_subscription_with_a_plan_is_meant_before_one_of_add_ons() -> None:
    play = Play()
    plan = play.subscribed()
    play.do("addon", addon="audit", new=True)

    assert play.do("cancel").subscription.id == plan.id


def test_a_checkout_may_leave_the_tenant_out() -> None:
    assert Play().do("upgrade", linked=False).subscription.custom_data is None


def test_a_period_can_be_short() -> None:
    play = Play()
    now_us = play.now_us

    assert play.do("upgrade", ends_in_s=5).subscription.period.ends_us == now_us + 5_000_000


def test_seats_change_the_plan_s_quantity_only() -> None:
    play = Play()
    play.do("upgrade")
    play.do("addon", addon="audit", quantity=2)

    assert held(play.do("seats", quantity=9)) == {"Basic": 9, "Audit log": 2}


def test_add_ons_come_and_go() -> None:
    play = Play()
    play.do("upgrade")

    assert held(play.do("addon", addon="audit")) == {"Basic": 1, "Audit log": 1}
    assert held(play.do("addon", addon="audit", quantity=3)) == {"Basic": 1, "Audit log": 3}
    assert held(play.do("remove_addon", addon="audit")) == {"Basic": 1}
    assert problem(play, "remove_addon", addon="audit").code == "no_addon"


def test_uncancel_removes_what_is_scheduled() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")

    assert play.do("uncancel").subscription.scheduled is None
    assert problem(play, "uncancel").code == "nothing_scheduled"


def test_resume_calls_off_a_pause_to_come() -> None:
    play = Play()
    play.subscribed()
    play.do("pause")

    outcome = play.do("resume")

    assert (outcome.subscription.status, outcome.subscription.scheduled) == ("active", None)


def test_a_pause_can_name_its_end() -> None:
    play = Play()
    play.subscribed()

    outcome = play.do("pause", when="now", resume_at="2027-01-01T00:00:00Z")

    assert outcome.subscription.scheduled is not None
    assert outcome.subscription.scheduled.action == "resume"


def test_changes_in_a_trial_are_not_billed() -> None:
    play = Play()
    play.do("trial")

    assert kinds(play.do("upgrade")) == ["updated"]


def test_environments_do_not_see_each_other() -> None:
    play = Play()
    play.subscribed()

    assert kinds(play.do("upgrade", env="sandbox"))[0] == "created"
    assert {sub.env for sub in play.world.subscriptions.values()} == {"live", "sandbox"}


def test_tenants_do_not_see_each_other() -> None:
    play = Play()
    mine = play.subscribed()

    with pytest.raises(ControlError, match="tenant other has no subscription"):
        play.do("cancel", "other", subscription_id=mine.id)


OF_PAYMENTS = {"buy", "refund", "chargeback", "chargeback_reverse"}


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"upgrade", "trial"} - OF_PAYMENTS))
def test_without_a_subscription_it_says_what_to_do(action: str) -> None:
    params: dict[str, JsonValue] = {"quantity": 1} if action == "seats" else {}
    params |= {"addon": "audit"} if "addon" in action else {}
    params |= {"ends_in_s": 1} if action == "period" else {}

    found = problem(Play(), action, **params)

    assert (found.status, found.code) == (409, "no_subscription")
    assert "start one with upgrade or trial" in found.detail


@pytest.mark.parametrize(
    ("action", "params", "code"),
    [
        ("fly", {}, "unknown_action"),
        ("upgrade", {"plan": "gold"}, "unknown_plan"),
        ("upgrade", {"plan": "free"}, "not_higher"),
        ("upgrade", {"plan": "pro"}, "not_higher"),
        ("upgrade", {"plan": 7}, "invalid_parameter"),
        ("upgrade", {"plan": ""}, "invalid_parameter"),
        ("upgrade", {"quantity": 0}, "invalid_parameter"),
        ("upgrade", {"quantity": True}, "invalid_parameter"),
        ("upgrade", {"colour": "red"}, "invalid_parameter"),
        ("upgrade", {"new": "yes"}, "invalid_parameter"),
        ("downgrade", {"plan": "pro"}, "not_lower"),
        ("trial", {}, "has_subscription"),
        ("trial", {"new": True, "days": 366}, "invalid_parameter"),
        ("seats", {}, "invalid_parameter"),
        ("addon", {}, "invalid_parameter"),
        ("addon", {"addon": "gold"}, "unknown_addon"),
        ("cancel", {"when": "later"}, "invalid_parameter"),
        ("pause", {"resume_at": "tomorrow"}, "invalid_parameter"),
        ("cancel", {"subscription_id": "sub_x"}, "no_subscription"),
        ("period", {}, "invalid_parameter"),
    ],
)
def test_what_makes_no_sense_is_refused(action: str, params: dict[str, JsonValue], code: str) -> None:
    play = Play()
    play.subscribed("pro")

    # With a quantity that is no number, a new checkout is the way to reach the check.
    found = problem(play, action, **({"new": True} | params if "quantity" in params else params))

    assert found.code == code


def test_a_tenant_has_a_tenant_s_form() -> None:
    for tenant in ("x" * 129, "undefined", " "):
        with pytest.raises(ControlError, match="tenant: "):
            Play().do("upgrade", tenant)


def test_what_the_provider_refuses_stays_its_refusal() -> None:
    play = Play()
    play.subscribed("basic")
    play.do("past_due")

    with pytest.raises(ApiError) as error:
        play.do("upgrade")
    assert error.value.code == "subscription_update_when_past_due"


def test_a_plan_without_a_price_says_where_to_add_one() -> None:
    unpriced = catalog.parse('[plans.a]\nname = "A"\nrank = 0\ndefault = true\n[plans.b]\nname = "B"\nrank = 1\n')
    play = Play()
    params = actions.read("upgrade", {"tenant": "acme", "plan": "b"})
    scene = Scene(play.turn(), offers.of(unpriced, "live"), params)

    with pytest.raises(ControlError, match=r"add prices\.paddle\.live to the catalog"):
        actions.act("upgrade", scene)


def test_an_add_on_alone_has_no_seats_and_no_plan_to_lower() -> None:
    play = Play()
    play.do("addon", addon="audit", new=True)

    assert problem(play, "seats", quantity=2).code == "no_plan"
    assert problem(play, "downgrade").code == "no_plan"
    assert held(play.do("upgrade")) == {"Basic": 1, "Audit log": 1}
