"""What a paid checkout session sells once, and what refunded charges and disputes take back."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.domain.facts.model import Event, Item, Purchase
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.domain.tenant_naming import of_account
from sync.billing.providers.stripe.payments import paid_for
from sync.billing.providers.stripe.webhooks import EVENT_TYPES, StripeWebhooks, checkout_of
from tests.scenarios.test_stripe_purchases import charge, dispute, happened, lines, session

SECOND_NS = 1_000_000_000


def parsed(body: dict[str, Any]) -> Event:
    return StripeWebhooks().read("live", body, body["id"], body["type"])


def test_a_session_with_its_items_is_a_purchase_by_the_id_of_its_payment() -> None:
    body = session(line_items=lines("price_life"))
    body["data"]["object"]["line_items"]["data"][0]["price"] |= {"product": "prod_life", "lookup_key": "life"}
    event, created_ns = parsed(body), body["data"]["object"]["created"] * SECOND_NS
    bought = event.subscription
    assert bought is not None
    assert (event.unlisted, event.ignored, event.subscription_id) == ("", "", "pi_acme")
    assert (bought.id, bought.items, bought.customer_id) == ("pi_acme", (Item("price_life", 1),), "cus_acme")
    assert (bought.products, bought.lookup_keys) == ({"price_life": "prod_life"}, {"price_life": "life"})
    assert bought.purchase == Purchase(created_ns, 1900, "USD")
    assert [place.where for place in event.names] == ["metadata", "client_reference_id"]


@pytest.mark.parametrize("items", [None, {"data": [], "has_more": True}, "li_1"])
def test_a_session_without_all_of_its_items_has_to_be_fetched(items: object) -> None:
    event = parsed(session(line_items=items))
    assert (event.subscription, event.subscription_id, event.unlisted) == (None, "pi_acme", "cs_live_acme")
    assert not event.ignored


def test_a_free_session_has_its_own_id() -> None:
    event = parsed(session(payment_intent=None, payment_status="no_payment_required", line_items=lines("price_life")))
    assert event.subscription_id == "cs_live_acme"


@pytest.mark.parametrize("fields", [{"mode": "subscription"}, {"mode": "setup"}, {"payment_status": "unpaid"}])
def test_other_sessions_stay_hints(fields: dict[str, str]) -> None:
    event = parsed(session(**fields))
    assert (event.subscription, event.unlisted) == (None, "")
    assert "hint" in event.ignored


def test_the_api_s_session_is_the_same_purchase() -> None:
    body = session(line_items=lines("price_life"))
    found = checkout_of(body["data"]["object"], "live", 0)
    assert found.is_final
    assert found.payment is not None
    assert found.payment.subscription == parsed(body).subscription


def test_a_refunded_charge_shows_the_sum_of_its_refunds() -> None:
    first, all_of_it = (parsed(charge(60, back)).refund for back in (500, 1900))
    assert first is not None
    assert all_of_it is not None
    assert (first.id, first.kind, first.status) == ("ch_acme", RefundKind.REFUND, RefundStatus.APPROVED)
    assert (first.amount, first.is_full, all_of_it.is_full) == (500, False, True)
    assert first.place < all_of_it.place
    assert parsed(charge(60, 500)).subscription_id == "pi_acme"
    assert parsed(charge(60, 500, payment_intent=None)).subscription_id == "ch_acme"


@pytest.mark.parametrize("fields", [{"invoice": "in_1"}, {"description": "Subscription creation"}])
def test_a_subscription_s_charge_is_known_as_such(fields: dict[str, str]) -> None:
    event = parsed(charge(60, 500, "acme", **fields))
    assert event.refund is not None
    assert event.refund.is_of_subscription


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("needs_response", RefundStatus.APPROVED),
        ("under_review", RefundStatus.APPROVED),
        ("lost", RefundStatus.APPROVED),
        ("won", RefundStatus.REVERSED),
        ("warning_under_review", RefundStatus.PENDING),
        ("prevented", RefundStatus.PENDING),
    ],
)
def test_a_dispute_is_a_chargeback(status: str, expected: RefundStatus) -> None:
    event = parsed(dispute(60, status))
    assert event.refund is not None
    assert (event.subscription_id, event.refund.id, event.refund.kind) == ("pi_acme", "dp_acme", RefundKind.CHARGEBACK)
    assert event.refund.status is expected


def test_the_end_of_a_dispute_is_the_newest_of_its_second() -> None:
    opened, closed = parsed(dispute(60, "needs_response")).refund, parsed(dispute(60, "won", what="closed")).refund
    assert opened is not None
    assert closed is not None
    assert opened.place < closed.place


def test_a_connected_account_s_payments_are_named_with_the_account() -> None:
    bought = of_account(parsed(session(line_items=lines("price_life"))), "acct_1")
    assert bought.subscription is not None
    assert bought.subscription.id == bought.subscription_id == "acct_1/pi_acme"
    assert of_account(parsed(charge(60, 500)), "acct_1").subscription_id == "acct_1/pi_acme"


def test_what_has_no_id_cannot_be_read() -> None:
    for body in (session(id=None, payment_intent=None), charge(60, 500, id=None), dispute(60, "won")):
        body["data"]["object"].pop("id", None)
        with pytest.raises(ValueError, match="no id"):
            parsed(body)


def test_catch_up_reads_them_within_stripe_s_limit() -> None:
    assert {"charge.refunded", "charge.dispute.closed", "checkout.session.async_payment_succeeded"} <= set(EVENT_TYPES)
    assert len(EVENT_TYPES) <= 20


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (RefundStatus.APPROVED, "ch_acme", "pi_acme", False)),
        ({"status": "pending"}, (RefundStatus.PENDING, "ch_acme", "pi_acme", False)),
        ({"status": "requires_action"}, (RefundStatus.PENDING, "ch_acme", "pi_acme", False)),
        ({"status": "failed"}, (RefundStatus.REVERSED, "ch_acme", "pi_acme", False)),
        ({"status": "canceled"}, (RefundStatus.REVERSED, "ch_acme", "pi_acme", False)),
        ({"payment_intent": None}, (RefundStatus.APPROVED, "ch_acme", "ch_acme", False)),
        ({"charge": None}, (RefundStatus.APPROVED, "pi_acme", "pi_acme", False)),
        ({"charge": {"id": "ch_acme", "amount": 1900}}, (RefundStatus.APPROVED, "ch_acme", "pi_acme", True)),
    ],
)
def test_a_single_refund_is_a_part_of_its_charge_s_sum(
    fields: dict[str, Any], expected: tuple[RefundStatus, str, str, bool]
) -> None:
    shown = {"id": "re_1", "status": "succeeded", "amount": 1900, "charge": "ch_acme", "payment_intent": "pi_acme"}
    event = parsed(happened("refund.updated", 5, {**shown, **fields}))
    refund = event.refund
    assert refund is not None
    assert (refund.status, refund.part_of, event.subscription_id, refund.is_full) == expected


@pytest.mark.parametrize("fields", [{"id": None}, {"charge": None, "payment_intent": None}, {"created": "soon"}])
def test_a_refund_without_what_it_needs_is_unparsable(fields: dict[str, Any]) -> None:
    body = {"id": "re_1", "status": "succeeded", "charge": "ch_1", "payment_intent": "pi_1", **fields}
    with pytest.raises(ValueError, match=r"refund|created"):
        parsed({**happened("refund.failed", 5, {**body, "id": "x"}), "data": {"object": body}})


def test_what_an_invoice_s_payment_was_for() -> None:
    of_subscription = {"id": "in_1", "amount_paid": 900, "parent": {"subscription_details": {"subscription": "sub_1"}}}
    older = {"id": "in_2", "subscription": {"id": "sub_2"}}
    assert paid_for([{"invoice": of_subscription}]) == ("sub_1", True, 900)
    assert paid_for([{"invoice": "in_0"}, {"invoice": older}]) == ("sub_2", True, None)
    assert paid_for([{"invoice": {"id": "in_3", "amount_paid": 5, "parent": None}}]) == ("in_3", False, 5)
    assert paid_for([]) is paid_for(None) is paid_for([7]) is None
