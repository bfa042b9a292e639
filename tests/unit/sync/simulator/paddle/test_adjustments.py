"""What Planwire reads of the simulator's purchases and adjustments is what the simulator has done: a property."""

from __future__ import annotations

import orjson
from hypothesis import given, strategies as st

from sync.billing.domain.facts.model import Event
from sync.billing.domain.facts.payments import Refund, is_paid_back
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.simulator.paddle import entities
from sync.simulator.world.errors import ControlError
from sync.simulator.world.model import Event as Told, Transaction
from tests.support.world import Shop

acts = st.lists(
    st.one_of(st.tuples(st.just("refund"), st.integers(1, 4_000)), st.sampled_from([("chargeback", 0), ("win", 0)])),
    max_size=6,
)


def read(event: Told) -> Event:
    parsed = PaddleWebhooks().parse(orjson.dumps(entities.envelope(event, "ntf_1")), "live")
    assert isinstance(parsed, Event)
    return parsed


@given(acts, st.randoms(use_true_random=False))
def test_what_went_back_is_read_as_it_is_in_any_order(history: list[tuple[str, int]], random: object) -> None:
    play = Shop()
    play.do("buy", plan="lifetime")
    for action, amount in history:
        try:
            match action:
                case "refund":
                    play.do("refund", amount=amount)
                case "chargeback":
                    play.do("chargeback")
                case _:
                    play.do("chargeback_reverse")
        except ControlError:
            continue
    bought, *adjusted = play.world.events
    payment = bought.data
    assert isinstance(payment, Transaction)
    body = read(bought).subscription
    assert body is not None
    assert body.purchase is not None
    assert (body.id, body.purchase.total, body.purchase.currency) == (payment.id, payment.amount, "USD")
    events = [read(event) for event in adjusted]
    random.shuffle(events)  # type: ignore[attr-defined]
    newest: dict[str, Refund] = {}
    for event in events:
        assert event.refund is not None
        assert event.subscription_id == payment.id
        known = newest.get(event.refund.id)
        if known is None or known.place < event.refund.place:
            newest[event.refund.id] = event.refund
    back = play.world.taken_back(payment)
    assert is_paid_back(newest.values(), payment.amount) == (back == payment.amount)


def test_a_subscription_s_payment_goes_back_too() -> None:
    play = Shop()
    subscription = play.do("upgrade", plan="mail").subscription
    event = read(play.do("refund", app="mail").events[-1])

    assert event.refund is not None
    assert (event.subscription_id, event.refund.is_of_subscription) == (subscription.id, True)
    assert event.refund.is_full
