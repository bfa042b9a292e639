"""The bodies, held against the official SDK's entity classes and against the official fixtures' habits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from paddle_billing.Entities.Subscription import Subscription as ApiSubscription
from paddle_billing.Entities.SubscriptionPreview import SubscriptionPreview
from paddle_billing.Notifications.Entities.Subscription import Subscription as WebhookSubscription
from paddle_billing.Notifications.Entities.SubscriptionCreated import SubscriptionCreated
from paddle_billing.Notifications.Entities.Transaction import Transaction as WebhookTransaction

from sync.core.instants import text_us
from sync.simulator.paddle import entities
from sync.simulator.paddle.routes import error_document
from sync.simulator.world import offers
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Bill, Event, Line, Price, parse_us
from sync.simulator.world.offers import Charge
from tests.support.world import Play

LIVES = {
    "checkout": ["upgrade"],
    "trial": ["trial", "activate"],
    "renewal": ["upgrade", "renew"],
    "failure": ["upgrade", "past_due", "recover"],
    "cancel": ["upgrade", "cancel", "uncancel", "cancel", "renew"],
    "pause": ["upgrade", "pause", "renew", "resume"],
    "items": ["upgrade", "seats", "addon", "remove_addon", "upgrade", "downgrade"],
}
PARAMS: dict[str, dict[str, Any]] = {
    "seats": {"quantity": 7},
    "addon": {"addon": "audit"},
    "remove_addon": {"addon": "audit"},
}


def live(name: str) -> list[Event]:
    """All events of one of LIVES."""
    play = Play()
    for action in LIVES[name]:
        play.do(action, **PARAMS.get(action, {}))
    return list(play.world.events)


def said(body: Any, entity: Any) -> None:
    """Every scalar that the entity parsed is what the body said, and no key of the body is unknown to the SDK."""
    for name, value in body.items():
        assert hasattr(entity, name), f"{type(entity).__name__} knows no {name}"
        parsed = getattr(entity, name)
        if isinstance(value, str) and isinstance(parsed, str | int):
            assert str(parsed) == value
        elif isinstance(value, str) and name.endswith("_at"):
            assert int(parsed.timestamp() * 1_000_000) == parse_us(value)
        elif value is None:
            assert parsed in (None, [])


@pytest.mark.parametrize("name", LIVES)
def test_the_sdk_parses_every_event_of_a_life(name: str) -> None:
    for event in live(name):
        data: Any = entities.envelope(event, "ntf_1")["data"]
        if event.type == "transaction.completed":
            said(data | {"details": {}, "payments": [], "items": []}, WebhookTransaction.from_dict(data))
        elif event.type == "subscription.created":
            said(data, SubscriptionCreated.from_dict(data))
        else:
            said(data, WebhookSubscription.from_dict(data))


@pytest.mark.parametrize("name", LIVES)
def test_the_sdk_parses_the_api_s_subscription(name: str) -> None:
    play = Play()
    for action in LIVES[name]:
        sub = play.do(action, **PARAMS.get(action, {})).subscription
        body: Any = entities.api_subscription(sub, ("next_transaction", "recurring_transaction_details"))

        parsed = ApiSubscription.from_dict(body)

        said(body, parsed)
        assert parsed.management_urls is not None
        assert (parsed.next_transaction is None) == (sub.bills_us is None)


def test_the_envelope_is_the_webhook_s() -> None:
    event = live("checkout")[0]

    body = entities.envelope(event, "ntf_1")

    assert list(body) == ["event_id", "event_type", "occurred_at", "data", "notification_id"]
    assert body["occurred_at"] == text_us(event.occurred_us)
    assert "notification_id" not in entities.envelope(event, None)


def test_created_alone_names_the_transaction() -> None:
    created, activated, paid = (entities.entity(event) for event in live("checkout"))

    assert created["transaction_id"] == paid["id"]
    assert "transaction_id" not in activated
    assert paid["subscription_id"] == created["id"]


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_a_scheduled_end_nulls_the_next_bill_and_keeps_the_status(action: str) -> None:
    play = Play()
    ends_us = play.subscribed().period.ends_us

    body: Any = entities.subscription(play.do(action).subscription)

    assert body["status"] == "active"
    assert body["next_billed_at"] is None
    assert [item["next_billed_at"] for item in body["items"]] == [None]
    assert body["scheduled_change"] == {"action": action, "effective_at": text_us(ends_us), "resume_at": None}
    assert body["current_billing_period"]["ends_at"] == text_us(ends_us)


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_an_ended_or_paused_one_has_items_and_no_period(action: str) -> None:
    play = Play()
    play.subscribed()

    body: Any = entities.subscription(play.do(action, when="now").subscription)

    assert body["current_billing_period"] is None
    assert body["next_billed_at"] is None
    assert len(body["items"]) == 1
    assert body[f"{body['status']}_at"] == body["updated_at"]


def test_a_past_due_one_shows_the_new_unpaid_period() -> None:
    play = Play()
    play.subscribed()
    now_us = play.now_us

    body: Any = entities.subscription(play.do("past_due").subscription)

    assert body["current_billing_period"]["starts_at"] == text_us(now_us)
    assert body["next_billed_at"] == body["current_billing_period"]["ends_at"]


def test_webhooks_carry_nothing_that_only_the_api_has() -> None:
    play = Play()

    body = entities.subscription(play.subscribed())

    assert not {"management_urls", "next_transaction", "recurring_transaction_details"} & set(body)
    assert {field.name for field in dataclasses.fields(WebhookSubscription)} == set(body)


def charge(credit: int, charged: int) -> Charge:
    return Charge(Bill((Line(Price("pri_x", "pro_x", "X", charged), 1, charged, "1"),), credit), at_once=True)


def test_a_preview_has_no_id_and_says_what_is_due() -> None:
    play = Play()
    before = play.subscribed("basic")
    after = play.do("upgrade").subscription

    body: Any = entities.preview(before, after, charge(credit=1000, charged=2000))

    assert "id" not in body
    parsed = SubscriptionPreview.from_dict(body)
    assert parsed.update_summary is not None
    assert parsed.immediate_transaction is not None
    totals = parsed.immediate_transaction.details.totals
    assert (totals.total, totals.credit, totals.grand_total) == ("2000", "1000", "1000")
    assert (parsed.update_summary.result.action, parsed.update_summary.result.amount) == ("charge", "1000")


def test_a_preview_of_less_is_a_credit_and_no_transaction() -> None:
    play = Play()
    before = play.subscribed("pro")
    after = play.do("downgrade").subscription

    body: Any = entities.preview(before, after, charge(credit=2000, charged=1000))

    assert body["immediate_transaction"] is None
    assert body["update_summary"]["result"] == {"action": "credit", "amount": "1000", "currency_code": "USD"}


def test_a_preview_without_items_costs_nothing() -> None:
    subscription = Play().subscribed()

    assert entities.preview(subscription, subscription, None)["update_summary"] is None


def test_an_error_has_paddle_s_shape() -> None:
    refusal = ApiError("invalid_field", fields={"items": "must be a list"})

    assert error_document(refusal, "r1") == {
        "error": {
            "type": "request_error",
            "code": "invalid_field",
            "detail": "Request does not pass validation.",
            "documentation_url": "https://developer.paddle.com/errors/shared/invalid_field",
            "errors": [{"field": "items", "message": "must be a list"}],
        },
        "meta": {"request_id": "r1"},
    }


def test_proration_counts_whole_minutes_of_what_is_left() -> None:
    play = Play()
    before = play.subscribed("basic")
    after = play.do("upgrade").subscription
    half_us = (before.period.starts_us + before.period.ends_us) // 2

    half = offers.change(before, after.items, half_us, "prorated_immediately")
    assert (half.bill.credit, half.bill.subtotal, half.due, half.at_once) == (500, 1000, 500, True)
    full = offers.change(before, after.items, half_us, "full_next_billing_period")
    assert (full.bill.credit, full.bill.subtotal, full.at_once) == (0, 1000, False)
    late = offers.change(before, after.items, before.period.ends_us + 1, "prorated_immediately")
    assert (late.bill.credit, late.bill.subtotal, late.due) == (0, 0, 0)
