"""A preview is what the webhook then produces; and what did not come as foreseen is told."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import assume, given, strategies as st

from sync.billing.domain.entitlements.awaited import await_preview, check_awaited
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.preview import (
    PreviewRequest,
    difference,
    preview,
)
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.model import NOTHING, Facts, Item, Order
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.domain.outcome import ChangeRejected
from tests.support.histories import CATALOG, PRICES, PRO, at, event, histories

NOW_NS = at(20)
SETTING = Setting(CATALOG, "live", (), NOW_NS)


def known(*statuses: str) -> Facts:
    result = reduce(NOTHING, event("active", 1, PRO, period=(0, 30)))
    assert isinstance(result, Reduced)
    return result.facts


@given(st.data())
def test_a_preview_is_what_the_webhook_then_produces(data: st.DataObject) -> None:
    facts = NOTHING
    for each in data.draw(histories()):
        result = reduce(facts, each)
        facts = result.facts if isinstance(result, Reduced) else facts
    items = data.draw(st.lists(st.builds(Item, st.sampled_from(PRICES), st.integers(1, 9)), min_size=1, max_size=3))
    asked = data.draw(
        st.one_of(
            st.builds(PreviewRequest, plan=st.sampled_from(["basic", "team", "pro"]), quantity=st.integers(1, 9)),
            st.just(PreviewRequest(items=tuple(items))),
            st.just(PreviewRequest(cancel="now")),
        )
    )
    try:
        foreseen = preview(facts, asked, SETTING)
    except ChangeRejected:
        assume(False)
    entry = facts.subscriptions[foreseen.key]
    told = event("active", 20, foreseen.body.items, subscription=entry.subscription.id)
    # What the provider sends of the change: the newest body, whatever clock stamped those before.
    order = Order(max(NOW_NS, entry.order.updated_ns + 1), max(NOW_NS, entry.order.occurred_ns), "evt_x")
    result = reduce(facts, replace(told, order=order, subscription=foreseen.body))
    assert isinstance(result, Reduced)
    projected = project(result.facts, SETTING)
    assert isinstance(projected, Projected)
    assert projected.state == foreseen.state
    settled, differing = check_awaited(
        await_preview(facts, "pv", foreseen, NOW_NS), replace(result.facts, awaited_previews=()), projected, 0
    )
    assert (settled.awaited_previews, differing) == ((), [])


def test_differences_go_field_by_field() -> None:
    before = {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": 1}, "same": {"x": 1}}
    after = {"a": 1, "b": {"c": 4}, "g": {"h": True}, "same": {"x": 1}}
    assert difference(before, after) == [
        {"path": "b.c", "from": 2, "to": 4},
        {"path": "b.d", "from": 3},
        {"path": "e.f", "from": 1},
        {"path": "g.h", "to": True},
    ]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (PreviewRequest(plan="gold"), "plan_unknown"),
        (PreviewRequest(plan="free"), "plan_not_sold"),
        (PreviewRequest(items=(Item("pri_x", 1),)), "price_unknown"),
        (PreviewRequest(plan="basic", subscription_id="sub_9"), "no_subscription"),
    ],
)
def test_what_cannot_be(asked: PreviewRequest, code: str) -> None:
    with pytest.raises(ChangeRejected) as caught:
        preview(known(), asked, SETTING._replace(now_ns=time.time_ns()))
    assert caught.value.code == code
