"""What a paid transaction sells once, and what adjustments take back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sync.billing.domain.facts.model import Event, Item, Purchase
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.core import instants
from tests.scenarios.test_purchases import adjustment, transaction
from tests.support.bodies import official

RECURRING = {"price": {"id": "pri_pro", "billing_cycle": {"interval": "month", "frequency": 1}}, "quantity": 1}


def parsed(body: dict[str, Any]) -> Event:
    return PaddleWebhooks().read("live", body, body["event_id"], body["event_type"])


def test_a_transaction_without_a_subscription_is_a_purchase() -> None:
    body = transaction(60, "pri_life", "pri_course")
    event = parsed(body)
    bought = event.subscription
    assert bought is not None
    assert event.is_of_payment
    assert (bought.id, event.subscription_id, event.checkout_id, event.ignored) == ("txn_acme", "txn_acme", None, "")
    assert bought.items == (Item("pri_life", 1), Item("pri_course", 1))
    assert bought.purchase == Purchase(instants.parse(body["data"]["billed_at"]), 3800, "USD")


def test_the_sum_of_the_items_stands_in_for_a_total_that_is_not_shown() -> None:
    shown: tuple[dict[str, Any] | None, ...] = (None, {})
    for details in shown:
        event = parsed(transaction(60, "pri_life", "pri_course", details=details))
        assert event.subscription is not None
        assert event.subscription.purchase is not None
        assert event.subscription.purchase.total == 3800
    bare = parsed(
        transaction(60, items=[{"price": {"id": "pri_life", "billing_cycle": None}, "quantity": 1}], details={})
    )
    assert bare.subscription is not None
    assert bare.subscription.purchase is not None
    assert bare.subscription.purchase.total is None


@pytest.mark.parametrize(
    "body",
    [
        transaction(60, "pri_life", subscription_id="sub_1"),
        transaction(60, items=[RECURRING], kind="paid"),
        transaction(60, items=[{"price": {"id": "pri_unclear"}, "quantity": 1}], kind="paid"),
        transaction(60, items=[]),
        transaction(60, items=None),
    ],
)
def test_what_pays_for_a_subscription_stays_a_hint(body: dict[str, Any]) -> None:
    event = parsed(body)
    assert event.subscription is None
    assert "hint" in event.ignored
    assert event.checkout_id == "txn_acme"


def test_the_official_transaction_pays_for_a_subscription() -> None:
    body = transaction(60)
    assert parsed({**body, "data": official("transaction.completed")}).subscription is None


@pytest.mark.parametrize(
    ("fields", "kind", "status"),
    [
        ({}, RefundKind.REFUND, RefundStatus.APPROVED),
        ({"status": "pending_approval"}, RefundKind.REFUND, RefundStatus.PENDING),
        ({"status": "rejected"}, RefundKind.REFUND, RefundStatus.PENDING),
        ({"action": "chargeback"}, RefundKind.CHARGEBACK, RefundStatus.APPROVED),
        ({"action": "chargeback", "status": "reversed"}, RefundKind.CHARGEBACK, RefundStatus.REVERSED),
        ({"action": "chargeback_reverse"}, RefundKind.REVERSAL, RefundStatus.APPROVED),
    ],
)
def test_an_adjustment_is_a_refund_of_its_transaction(
    fields: dict[str, Any], kind: RefundKind, status: RefundStatus
) -> None:
    event = parsed(adjustment(60, 500, **fields))
    assert event.refund is not None
    assert (event.subscription_id, event.refund.id, event.refund.is_of_subscription) == ("txn_acme", "adj_1", False)
    assert (event.refund.kind, event.refund.status) == (kind, status)
    assert (event.refund.amount, event.refund.currency, event.refund.is_full) == (500, "USD", False)


@pytest.mark.parametrize(
    ("fields", "is_full"),
    [
        ({"type": "full"}, True),
        ({"type": "partial", "items": [{"type": "full"}]}, False),
        ({"type": None, "subscription_id": "sub_1", "items": [{"type": "full"}, {"type": "full"}]}, True),
        ({"type": None, "subscription_id": "sub_1", "items": [{"type": "full"}, {"type": "partial"}]}, False),
        ({"type": None, "subscription_id": "sub_1"}, False),
        # The total of the purchase tells: one of its items may be refunded in full.
        ({"type": None, "items": [{"type": "full"}]}, False),
    ],
)
def test_which_adjustment_is_of_the_whole_transaction(fields: dict[str, Any], is_full: bool) -> None:
    event = parsed(adjustment(60, 500, **fields))
    assert event.refund is not None
    assert event.refund.is_full is is_full
    assert event.refund.is_of_subscription is ("subscription_id" in fields)


@pytest.mark.parametrize("action", ["credit", "credit_reverse", "chargeback_warning", None])
def test_an_adjustment_by_which_nothing_goes_back_is_ignored(action: str | None) -> None:
    event = parsed(adjustment(60, 500, action=action))
    assert event.refund is None
    assert "takes nothing back" in event.ignored


def test_an_adjustment_without_its_transaction_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="transaction_id"):
        parsed(adjustment(60, 500, transaction_id=None))


def test_one_time_items_beside_a_subscription_s_are_an_event_of_their_own() -> None:
    setup = transaction(60, "pri_setup")["data"]["items"]
    body = transaction(60, items=[RECURRING, *setup], subscription_id="sub_1", kind="paid")
    (_, whole), (id, part) = PaddleWebhooks().split(orjson.dumps(body), "")
    assert orjson.loads(whole) == body
    event = parsed(orjson.loads(part))
    assert (event.event_id, id) == (f"{body['event_id']}.items", f"{body['event_id']}.items")
    assert event.subscription is not None
    assert event.subscription.items == (Item("pri_setup", 1),)
    assert event.subscription.purchase is not None
    assert (event.subscription.purchase.total, event.subscription.purchase.subscription_id) == (None, "sub_1")
    charged = transaction(60, "pri_setup", subscription_id="sub_1")
    (_, (_, part)) = PaddleWebhooks().split(orjson.dumps(charged), "")
    event = parsed(orjson.loads(part))
    assert event.subscription is not None
    assert event.subscription.purchase is not None
    assert event.subscription.purchase.total == 1900


@pytest.mark.parametrize(
    "body",
    [
        transaction(60, "pri_life"),
        transaction(60, items=[RECURRING]),
        transaction(60, items=[RECURRING], subscription_id="sub_1"),
        transaction(60, items=None),
        transaction(60, items=[7, None, {"price": "pri_1"}], subscription_id="sub_1"),
        {**transaction(60, "pri_life"), "data": None},
        ["transaction.paid"],
        "transaction.completed",
    ],
)
def test_other_bodies_are_one_event(body: Any) -> None:
    raw = orjson.dumps(body)
    assert list(PaddleWebhooks().split(raw, "evt_1")) == [("evt_1", raw)]
    assert list(PaddleWebhooks().split(b"transaction.paid {", "")) == [("", b"transaction.paid {")]
