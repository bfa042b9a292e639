from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import JsonValue

from sync.simulator.paddle import api, reads
from sync.simulator.world.errors import ApiError
from tests.support.world import LIVE, SANDBOX, Play, held, kinds, price_id


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as error:
        act()
    return error.value.code


def test_an_environment_s_key_sees_its_own_only() -> None:
    play = Play()
    mine = play.subscribed()

    assert api.own(play.world, "live", mine.id) == mine
    assert refused(lambda: api.own(play.world, "sandbox", mine.id)) == "not_found"
    assert refused(lambda: api.own(play.world, "live", "sub_x")) == "not_found"
    for operation in (api.update, *api.OPERATIONS.values()):
        assert refused(lambda: operation(play.turn(), SANDBOX, mine.id, {})) == "not_found"  # noqa: B023 - called at once
    assert refused(lambda: api.preview(play.world, SANDBOX, mine.id, {}, play.now_us)) == "not_found"
    assert reads.list_subscriptions(play.world, "sandbox", {}).data == []


def patch(play: Play, body: JsonValue) -> JsonValue:
    subscription = next(iter(play.world.subscriptions.values()))
    return held(play.keep(api.update(play.turn(), LIVE, subscription.id, body)))  # type: ignore[return-value]


def test_a_patch_replaces_items_and_keeps_the_quantity_of_those_held() -> None:
    play = Play()
    play.subscribed("pro", 4)

    items: JsonValue = [{"price_id": price_id("pro")}, {"price_id": price_id("audit"), "quantity": 2}]

    assert patch(play, {"items": items, "proration_billing_mode": "do_not_bill"}) == {"Pro": 4, "Audit log": 2}


def test_a_patch_with_null_removes_the_scheduled_change() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")

    patch(play, {"scheduled_change": None})

    assert [subscription.scheduled for subscription in play.world.subscriptions.values()] == [None]


MODE: dict[str, JsonValue] = {"proration_billing_mode": "do_not_bill"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "invalid_field"),
        ({"colour": "red"}, "invalid_field"),
        ({"discount": None}, "invalid_field"),
        ({"custom_data": 7}, "invalid_field"),
        ({"next_billed_at": 7} | MODE, "invalid_field"),
        ({"proration_billing_mode": "never"}, "invalid_field"),
        ({"on_payment_failure": "shrug"}, "invalid_field"),
        ({"scheduled_change": {"action": "cancel"}}, "subscription_scheduled_change_invalid_update"),
        ({"items": {}} | MODE, "invalid_field"),
        ({"items": [7]} | MODE, "invalid_field"),
        ({"items": [{"price": {}}]} | MODE, "invalid_field"),
        ({"items": []} | MODE, "subscription_all_items_removed"),
        ({"items": [{"price_id": "pri_x", "quantity": 1}]} | MODE, "subscription_new_items_not_valid"),
        ({"items": [{"price_id": price_id("audit")}]} | MODE, "subscription_quantity_missing_for_new_items"),
        ({"items": [{"price_id": price_id("pro"), "quantity": "1"}]} | MODE, "invalid_field"),
        ({"items": [{"price_id": price_id("pro"), "quantity": 1}]}, None),
    ],
)
def test_wrong_patches_are_refused(body: JsonValue, code: str | None) -> None:
    play = Play()
    play.subscribed()

    missing = "subscription_items_update_missing_proration_billing_mode"
    assert refused(lambda: patch(play, body)) == (code or missing)


def test_a_preview_changes_nothing_and_is_not_declined() -> None:
    play = Play()
    subscription = play.subscribed("basic")
    play.do("decline")
    before = play.world
    body: JsonValue = {
        "items": [{"price_id": price_id("pro"), "quantity": 1}],
        "proration_billing_mode": "full_immediately",
    }

    preview = api.preview(play.world, LIVE, subscription.id, body, play.now_us)

    assert play.world is before
    assert preview["update_summary"] == {
        "credit": {"amount": "0", "currency_code": "USD"},
        "charge": {"amount": "1000", "currency_code": "USD"},
        "result": {"action": "charge", "amount": "1000", "currency_code": "USD"},
    }


def test_a_preview_makes_the_refusals_of_an_update() -> None:
    play = Play()
    subscription = play.subscribed("basic")
    play.do("past_due")
    items: JsonValue = [{"price_id": price_id("pro"), "quantity": 1}]
    body: JsonValue = {"items": items, **MODE}

    assert refused(lambda: api.preview(play.world, LIVE, subscription.id, body, play.now_us)) == (
        "subscription_update_when_past_due"
    )


@pytest.mark.parametrize("body", [None, {}, {"effective_from": None}, {"effective_from": "next_billing_period"}])
@pytest.mark.parametrize("operation", ["cancel", "pause"])
def test_an_end_is_at_the_next_period_by_default(operation: str, body: JsonValue) -> None:
    play = Play()
    subscription = play.subscribed()

    outcome = api.OPERATIONS[operation](play.turn(), LIVE, subscription.id, body)

    assert outcome.subscription.scheduled is not None
    assert outcome.subscription.scheduled.action == operation


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("cancel", {"effective_from": "yesterday"}),
        ("cancel", []),
        ("pause", {"resume_at": "later"}),
        ("pause", {"on_resume": "whatever"}),
        ("resume", {"effective_from": "next_billing_period"}),
    ],
)
def test_wrong_operations_are_refused(operation: str, body: JsonValue) -> None:
    play = Play()
    subscription = play.subscribed()

    def act() -> object:
        return api.OPERATIONS[operation](play.turn(), LIVE, subscription.id, body)

    assert refused(act) == "invalid_field"


def test_a_pause_takes_its_end_and_how_it_resumes() -> None:
    play = Play()
    subscription = play.subscribed()
    body: JsonValue = {
        "effective_from": "immediately",
        "resume_at": "2027-01-01T00:00:00Z",
        "on_resume": "continue_existing_billing_period",
    }

    outcome = api.pause(play.turn(), LIVE, subscription.id, body)

    assert outcome.subscription.scheduled is not None
    assert outcome.subscription.scheduled.on_resume == "continue_existing_billing_period"
    assert kinds(outcome) == ["paused", "updated"]
