from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

import pytest
from pydantic import JsonValue

from sync.core.instants import text_us
from sync.simulator.paddle import api
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Subscription, Transaction
from tests.support.world import LIVE, SANDBOX, Play, held, kinds, price_id


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as error:
        act()
    return error.value.code


def several(play: Play) -> list[Subscription]:
    return [play.do("upgrade", f"t{n}").subscription for n in range(5)]


def ids(page: api.Page) -> list[JsonValue]:
    return [body["id"] for body in page.data]


def test_a_transaction_is_read_by_its_id_in_its_environment() -> None:
    play = Play()
    play.do("upgrade", "t1")
    (paid,) = [event.data for event in play.world.events if isinstance(event.data, Transaction)]
    body = api.transaction(play.world, "live", paid.id)
    assert (body["id"], body["status"], body["subscription_id"]) == (paid.id, "completed", paid.subscription_id)
    assert body["custom_data"] == {"tenant_id": "t1"}
    assert refused(lambda: api.transaction(play.world, "sandbox", paid.id)) == "not_found"
    assert refused(lambda: api.transaction(play.world, "live", "txn_unknown")) == "not_found"


def test_pages_follow_each_other_to_the_end() -> None:
    play = Play()
    made = [subscription.id for subscription in several(play)]

    seen: list[JsonValue] = []
    query: dict[str, str] = {"per_page": "2"}
    for more in (True, True, False):
        page = api.list_subscriptions(play.world, "live", query)
        seen += ids(page)
        assert (page.has_more, page.total, page.per_page) == (more, 5, 2)
        query = dict(parse_qsl(page.next_query))
    assert seen == made
    assert ids(api.list_subscriptions(play.world, "live", query)) == []


def test_pages_go_backwards_too() -> None:
    play = Play()
    made = [subscription.id for subscription in several(play)]

    first = api.list_subscriptions(play.world, "live", {"per_page": "3", "order_by": "id[DESC]"})
    second = api.list_subscriptions(play.world, "live", dict(parse_qsl(first.next_query)))

    assert ids(first) + ids(second) == made[::-1]


def test_filters_choose() -> None:
    play = Play()
    first, second, *_ = several(play)
    play.do("cancel", "t0", when="now")
    play.do("cancel", "t1")
    play.do("upgrade", "t2")

    def chosen(**query: str) -> list[JsonValue]:
        return ids(
            api.list_subscriptions(play.world, "live", {name.replace("__", "["): v for name, v in query.items()})
        )

    assert chosen(status="canceled") == [first.id]
    assert len(chosen(status="active,canceled")) == 5
    assert chosen(scheduled_change_action="cancel") == [second.id]
    assert chosen(customer_id=second.customer_id) == [second.id]
    assert chosen(id=f"{first.id},{second.id}") == [first.id, second.id]
    assert len(chosen(price_id=price_id("pro"))) == 1
    assert chosen(collection_mode="manual") == []
    assert chosen(status="paused") == []


@pytest.mark.parametrize(
    ("comparison", "count"),
    [("[LT]", 2), ("[LTE]", 3), ("[GT]", 2), ("[GTE]", 3), ("", 1)],
)
def test_the_next_bill_can_be_compared(comparison: str, count: int) -> None:
    play = Play()
    middle = several(play)[2]

    page = api.list_subscriptions(play.world, "live", {f"next_billed_at{comparison}": text_us(middle.next_us)})

    assert len(page.data) == count


@pytest.mark.parametrize(
    "query", [{"order_by": "status[ASC]"}, {"per_page": "0"}, {"per_page": "all"}, {"next_billed_at": "soon"}]
)
def test_wrong_queries_are_refused(query: dict[str, str]) -> None:
    play = Play()
    play.subscribed()

    assert refused(lambda: api.list_subscriptions(play.world, "live", query)) == "invalid_field"


def test_a_page_has_at_most_200() -> None:
    assert api.list_events(Play().world, "live", {"per_page": "100000"}).per_page == api.PER_PAGE_MAX


def test_events_come_in_order_from_a_cursor_on() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")

    everything = api.list_events(play.world, "live", {})
    rest = api.list_events(play.world, "live", {"after": str(everything.data[1]["event_id"])})

    assert [body["event_type"] for body in everything.data] == [event.type for event in play.world.events]
    assert rest.data == everything.data[2:]
    assert all("notification_id" not in body for body in everything.data)


def test_events_can_be_narrowed() -> None:
    play = Play()
    play.subscribed()
    play.do("cancel")
    newest = text_us(play.world.events[-1].occurred_us)

    assert len(api.list_events(play.world, "live", {"event_type": "subscription.updated"}).data) == 1
    assert len(api.list_events(play.world, "live", {"from": newest}).data) == 1
    assert len(api.list_events(play.world, "live", {"to": newest}).data) == len(play.world.events)
    assert api.list_events(play.world, "sandbox", {}).data == []


def test_an_environment_s_key_sees_its_own_only() -> None:
    play = Play()
    mine = play.subscribed()

    assert api.own(play.world, "live", mine.id) == mine
    assert refused(lambda: api.own(play.world, "sandbox", mine.id)) == "not_found"
    assert refused(lambda: api.own(play.world, "live", "sub_x")) == "not_found"
    for operation in (api.update, *api.OPERATIONS.values()):
        assert refused(lambda: operation(play.turn(), SANDBOX, mine.id, {})) == "not_found"  # noqa: B023 - called at once
    assert refused(lambda: api.preview(play.world, SANDBOX, mine.id, {}, play.now_us)) == "not_found"
    assert api.list_subscriptions(play.world, "sandbox", {}).data == []


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
