"""Polar's orders: what is bought once, and what goes back."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.domain.facts.model import Event, Item, Purchase
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.providers.polar.webhooks import PolarWebhooks
from sync.core import instants
from tests.support.polar_bodies import PRICES, PRODUCTS, at, envelope, order, refund, subscription


def parsed(data: dict[str, Any], kind: str = "order.paid") -> Event:
    event = PolarWebhooks().parse(envelope(data, kind), "live", "msg_1")
    assert isinstance(event, Event), event
    return event


class TestPurchases:
    @pytest.mark.parametrize("kind", ["order.created", "order.updated", "order.paid"])
    def test_a_paid_order_without_a_subscription(self, kind: str) -> None:
        data = order(units=3, modified_at=at())
        event = parsed(data, kind)
        body = event.subscription
        assert body is not None
        assert (body.id, body.status, body.customer_id) == (data["id"], "active", data["customer_id"])
        assert (body.items, body.products) == ((Item(PRICES["pro"], 3),), {PRICES["pro"]: PRODUCTS["pro"]})
        assert body.purchase == Purchase(instants.parse(data["created_at"]), 3480, "USD")
        assert event.order.updated_ns == instants.parse(data["modified_at"])
        assert event.is_of_payment
        assert event.names[0].value == {"tenant_id": "acme"}

    @pytest.mark.parametrize("status", ["draft", "pending", "void"])
    def test_one_that_is_not_paid_buys_nothing(self, status: str) -> None:
        event = parsed(order(status=status), "order.created")
        assert (event.subscription, bool(event.ignored)) == (None, True)

    def test_what_went_back_since_is_the_refund_s_to_say(self) -> None:
        data = order()
        later = {**data, "status": "refunded", "refunded_amount": 2900}
        assert parsed(later, "order.updated").subscription == parsed(data).subscription

    def test_a_subscription_s_order_is_no_purchase(self) -> None:
        assert parsed(order(subscription())).subscription is None

    def test_a_product_without_a_price_that_is_shown(self) -> None:
        body = parsed(order(items=[])).subscription
        assert body is not None
        assert body.items == (Item(PRODUCTS["pro"], 1),)


class TestRefunds:
    def test_an_order_shows_the_sum_of_its_refunds(self) -> None:
        data = order(status="partially_refunded", refunded_amount=1000, refunded_tax_amount=200, modified_at=at())
        event = parsed(data, "order.refunded")
        refund = event.refund
        assert refund is not None
        assert (event.subscription_id, event.subscription) == (data["id"], None)
        assert (refund.id, refund.kind, refund.status) == (data["id"], RefundKind.REFUND, RefundStatus.APPROVED)
        assert (refund.amount, refund.currency, refund.is_full, refund.is_of_subscription) == (
            1200,
            "USD",
            False,
            False,
        )

    def test_the_whole_order(self) -> None:
        refund = parsed(
            order(status="refunded", refunded_amount=2900, refunded_tax_amount=580), "order.refunded"
        ).refund
        assert refund is not None
        assert refund.is_full

    def test_one_that_fails_goes_back_no_more(self) -> None:
        data = refund(status="failed", modified_at=at())
        event = parsed(data, "refund.updated")
        assert event.refund is not None
        assert (event.subscription_id, event.refund.id, event.customer_id) == (data["order_id"],) * 2 + (
            data["customer_id"],
        )
        assert (event.refund.status, event.refund.amount, event.refund.is_full) == (RefundStatus.PENDING, 3480, False)

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("refund.created", "failed"), ("refund.updated", "succeeded"), ("refund.updated", "pending")],
    )
    def test_others_are_said_by_the_order(self, kind: str, status: str) -> None:
        event = parsed(refund(status=status), kind)
        assert (event.refund, bool(event.ignored)) == (None, True)

    def test_a_subscription_s_order(self) -> None:
        data = order(bought := subscription(), status="refunded")
        event = parsed(data, "order.refunded")
        assert event.refund is not None
        assert (event.subscription_id, event.refund.is_of_subscription) == (bought["id"], True)
