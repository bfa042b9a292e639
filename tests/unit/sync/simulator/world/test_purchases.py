"""What is bought once, and money that goes back, by the control actions."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from sync.billing.catalog import catalog
from sync.simulator.answers import subject_shown
from sync.simulator.world import purchases
from sync.simulator.world.errors import ApiError, ControlError
from sync.simulator.world.model import Adjustment, Transaction
from tests.support.world import Play, Shop, held, kinds


def paid(play: Play, **params: JsonValue) -> Transaction:
    payment = play.do("buy", "acme", "live", **params).subject
    assert isinstance(payment, Transaction)
    return payment


def back(play: Play, payment: Transaction) -> int:
    return play.world.taken_back(payment)


def code(play: Play, action: str, **params: JsonValue) -> str:
    before = play.world
    with pytest.raises(ControlError) as error:
        play.do(action, "acme", "live", **params)
    assert play.world is before
    assert "\n" not in str(error.value)
    return f"{error.value.status} {error.value.code}"


def test_a_purchase_is_one_payment_without_a_subscription() -> None:
    play = Shop()

    outcome = play.do("buy", addon="course", quantity=2)

    payment = outcome.subject
    assert isinstance(payment, Transaction)
    assert kinds(outcome) == ["transaction.completed"]
    assert (payment.subscription_id, payment.period, payment.amount) == (None, None, 2 * 500 * 12)
    assert [item.price.recurring for item in payment.items] == [False]
    assert play.world.subscriptions == {}


def test_several_purchases_stand_beside_each_other_and_beside_a_subscription() -> None:
    play = Shop()
    first = paid(play, plan="lifetime")
    subscribed = play.do("upgrade")
    second = paid(play, addon="course")

    assert held(subscribed) == {"Basic": 1}, "what is sold once is no next plan"
    assert set(play.world.purchases) == {first.id, second.id}
    assert first.customer_id == subscribed.subscription.customer_id == second.customer_id


def test_what_costs_nothing_is_paid_and_not_refunded() -> None:
    play = Shop()
    play.catalog = catalog.parse(
        '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n'
        '[plans.gift]\nname = "Gift"\nrank = 0\npurchase = true\nprices.paddle.live = ["pri_gift"]\n'
    )
    outcome = play.do("buy", plan="gift")
    assert subject_shown(outcome)["status"] == "paid"
    assert code(play, "refund") == "409 no_payment"


def test_a_refund_is_asked_for_and_approved() -> None:
    play = Shop()
    payment = paid(play, plan="lifetime")

    outcome = play.do("refund")

    assert kinds(outcome) == ["adjustment.created", "adjustment.updated"]
    asked, approved = (event.data for event in outcome.events)
    assert isinstance(asked, Adjustment)
    assert isinstance(approved, Adjustment)
    assert (asked.id, asked.status, approved.status) == (approved.id, "pending_approval", "approved")
    assert (approved.amount, approved.is_full, back(play, payment)) == (payment.amount, True, payment.amount)
    assert code(play, "refund") == "409 no_payment"
    assert code(play, "refund", transaction_id=payment.id) == "409 nothing_left"


def test_parts_go_back_until_nothing_is_left() -> None:
    play = Shop()
    payment = paid(play, plan="lifetime")

    play.do("refund", amount=1_000)
    assert code(play, "refund", amount=payment.amount) == "409 too_much"
    play.do("chargeback")

    assert back(play, payment) == payment.amount
    parts = [(each.amount, each.is_full) for each in play.world.adjustments_of(payment)]
    assert parts == [(1_000, False), (payment.amount - 1_000, False)]


def test_a_won_chargeback_brings_the_money_again_and_can_follow_on_another() -> None:
    play = Shop()
    payment = paid(play, plan="lifetime")
    play.do("chargeback")

    won = play.do("chargeback_reverse")

    assert kinds(won) == ["adjustment.updated", "adjustment.created"]
    assert back(play, payment) == 0
    assert code(play, "chargeback_reverse") == "409 no_payment"
    assert code(play, "chargeback_reverse", transaction_id=payment.id) == "409 no_chargeback"
    play.do("chargeback")
    assert back(play, payment) == payment.amount


def test_the_newest_payment_is_meant_unless_one_is_named() -> None:
    play = Shop()
    first = paid(play, plan="lifetime")
    course = paid(play, addon="course")
    mail = play.do("upgrade", plan="mail").subscription
    notes = play.do("upgrade", plan="pro").subscription

    assert back(play, first) == 0
    assert play.do("refund").events[-1].data.subscription_id == notes.id  # type: ignore[union-attr]
    assert play.do("refund", app="mail").subject == play.world.payments()[_payment(play, mail.id)]
    play.do("refund", plan="lifetime", amount=5)
    play.do("refund", addon="course", amount=6)
    assert (back(play, first), back(play, course)) == (5, 6)
    play.do("refund", transaction_id=first.id, amount=7)
    assert back(play, first) == 12
    assert code(play, "refund", subscription_id=mail.id) == "409 no_payment"
    assert code(play, "refund", transaction_id="txn_of_somebody_else") == "404 no_payment"


def _payment(play: Play, subscription_id: str) -> str:
    return next(each.id for each in play.world.payments().values() if each.subscription_id == subscription_id)


def test_nobody_refunds_another_tenant_s_or_environment_s_payment() -> None:
    play = Shop()
    payment = paid(play, plan="lifetime")

    for tenant, env in (("other", "live"), ("acme", "sandbox")):
        with pytest.raises(ControlError, match="has no payment"):
            play.do("refund", tenant, env, transaction_id=payment.id)


@pytest.mark.parametrize(
    ("action", "params", "expected"),
    [
        ("buy", {}, "400 invalid_parameter"),
        ("buy", {"plan": "lifetime", "addon": "course"}, "400 invalid_parameter"),
        ("buy", {"plan": "pro"}, "409 not_sold_once"),
        ("buy", {"addon": "audit"}, "409 not_sold_once"),
        ("buy", {"plan": "gold"}, "400 unknown_plan"),
        ("buy", {"plan": "lifetime", "app": "mail"}, "400 unknown_plan"),
        ("upgrade", {"plan": "lifetime"}, "409 sold_once"),
        ("addon", {"addon": "course"}, "409 sold_once"),
        ("refund", {}, "409 no_payment"),
        ("refund", {"amount": 0}, "400 invalid_parameter"),
        ("chargeback", {"amount": 5}, "400 invalid_parameter"),
        ("chargeback_reverse", {}, "409 no_payment"),
        ("buy", {"plan": "lifetime", "app": "shop"}, "400 unknown_app"),
    ],
)
def test_what_makes_no_sense_is_refused(action: str, params: dict[str, JsonValue], expected: str) -> None:
    assert code(Shop(), action, **params) == expected


def test_a_quantity_has_the_bounds_of_a_subscription_s() -> None:
    play = Shop()
    price = play.do("buy", plan="lifetime").subject.items[0].price

    with pytest.raises(ApiError, match="quantity must be from 1 to"):
        purchases.buy(play.turn(), "live", "acme", ((price, 0),), linked=True)


def test_the_world_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purchases, "PURCHASES_MAX", 1)
    play = Shop()
    paid(play, addon="course")

    assert code(play, "buy", addon="course") == "409 too_many"


def test_an_add_on_that_is_sold_once_is_no_item_of_a_subscription() -> None:
    play = Shop()
    play.do("upgrade")

    assert code(play, "addon", addon="course") == "409 sold_once"


def test_a_catalog_without_applications_sells_once_too() -> None:
    class Kiosk(Play):
        catalog = catalog.parse(
            '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n'
            '[plans.ever]\nname = "Ever"\nrank = 5\npurchase = true\nprices.paddle.live = ["pri_ever"]\n'
        )

    play = Kiosk()

    assert paid(play, plan="ever").amount == 500 * 12
    assert code(play, "buy") == "400 invalid_parameter"
    assert kinds(play.do("chargeback")) == ["adjustment.created"]
