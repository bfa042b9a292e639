"""A confirmed change is awaited by its subscription, and so is each bill that was quoted for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sync.billing.domain.entitlements.awaited import (
    LANDS_WITHIN_NS,
    Miss,
    await_preview,
    check_awaited,
    is_billable,
    without_preview,
)
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.preview import Preview, PreviewRequest, preview
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.entitlements.wakeups import next_wakeup_us
from sync.billing.domain.facts.codec import decode, encode
from sync.billing.domain.facts.model import NOTHING, Facts, Item
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.domain.money.model import CHANGE, RENEWAL, Bill, Line, Money
from sync.billing.domain.money.quote import Quote
from tests.support.histories import BASIC, CATALOG, PRO, at, event

NOW_NS = at(20)
SETTING = Setting(CATALOG, "live", (), NOW_NS)
NOW = Bill((Line("pri_basic", 2, 500, proration=True),), due=500)
MONEY = Money("EUR", 2, NOW, Bill((Line(*BASIC[0]),), due=900), at(30), NOW_NS)


def known(*subscriptions: str) -> Facts:
    facts = NOTHING
    for subscription in subscriptions or ("sub_1",):
        result = reduce(facts, event("active", 1, PRO, period=(0, 30), subscription=subscription))
        assert isinstance(result, Reduced)
        facts = result.facts
    return facts


class TestCompare:
    """An expectation is met, missed, or still awaited."""

    def foreseen(self) -> tuple[Facts, Preview]:
        facts = known()
        foreseen = preview(facts, PreviewRequest(items=BASIC), SETTING)
        return await_preview(facts, "pv", foreseen, NOW_NS), foreseen

    def landed(self, before: Facts, items: tuple[Item, ...], now_ns: int = NOW_NS) -> tuple[Facts, Projected]:
        result = reduce(before, event("active", 21, items, period=(0, 30)))
        assert isinstance(result, Reduced)
        projected = project(result.facts, SETTING._replace(now_ns=now_ns))
        assert isinstance(projected, Projected)
        return result.facts, projected

    def test_it_survives_its_encoding(self) -> None:
        before, _ = self.foreseen()
        assert len(before.awaited_previews) == 1
        assert decode(encode(before)) == before

    def test_met(self) -> None:
        before, _ = self.foreseen()
        after, projected = self.landed(before, BASIC)
        settled, differing = check_awaited(before, after, projected, NOW_NS)
        assert (settled.awaited_previews, differing) == ((), [])

    def test_met_under_another_catalog(self) -> None:
        before, _ = self.foreseen()
        after, projected = self.landed(before, BASIC)
        changed = Projected({**projected.state, "limits": {"seats": 3, "projects": 25}}, None)
        settled, differing = check_awaited(before, after, changed, NOW_NS)
        assert (settled.awaited_previews, differing) == (
            (),
            [Miss("pv", [{"path": "limits.seats", "from": 2, "to": 3}], "landed")],
        )

    def test_missed(self) -> None:
        before, _ = self.foreseen()
        after, projected = self.landed(before, (Item("pri_team", 1),))
        settled, differing = check_awaited(before, after, projected, NOW_NS)
        assert settled.awaited_previews == ()
        assert ([entry["path"] for entry in differing[0].differences], differing[0].why) == (["items"], "not made")

    def test_awaited_until_its_time_is_over(self) -> None:
        before, _ = self.foreseen()
        after, projected = self.landed(before, PRO)
        assert check_awaited(before, after, projected, NOW_NS + LANDS_WITHIN_NS - 1) == (after, [])
        settled, differing = check_awaited(before, after, projected, NOW_NS + LANDS_WITHIN_NS)
        assert (settled.awaited_previews, len(differing)) == ((), 1)

    def test_one_of_each_subscription(self) -> None:
        facts = known("sub_1", "sub_2")
        for name, subscription in (("pv_1", "sub_1"), ("pv_2", "sub_2"), ("pv_3", "sub_1")):
            foreseen = preview(facts, PreviewRequest(items=BASIC, subscription_id=subscription), SETTING)
            facts = await_preview(facts, name, foreseen, NOW_NS, MONEY)
        assert [one.preview_id for one in facts.awaited_previews] == ["pv_2", "pv_3"]
        assert {(one.preview_id, one.reason) for one in facts.awaited_bills} == {
            (name, reason) for name in ("pv_2", "pv_3") for reason in (CHANGE, RENEWAL)
        }
        assert decode(encode(facts)) == facts
        result = reduce(facts, event("active", 21, BASIC, period=(0, 30), subscription="sub_2"))
        assert isinstance(result, Reduced)
        projected = project(result.facts, SETTING)
        assert isinstance(projected, Projected)
        settled, _ = check_awaited(facts, result.facts, projected, NOW_NS)
        assert [one.preview_id for one in settled.awaited_previews] == ["pv_3"]
        assert len(settled.awaited_bills) == 4


class TestBills:
    """What was quoted is to be billed."""

    def quoted(self, money: Money | None = MONEY) -> Facts:
        facts = known()
        return await_preview(facts, "pv", preview(facts, PreviewRequest(items=BASIC), SETTING), NOW_NS, money)

    @pytest.mark.parametrize(
        "money",
        [None, Money("EUR", 2), Money("EUR", 2, Bill(due=0), Bill(due=0), at(30)), Money("EUR", 2, next=Bill(due=9))],
    )
    def test_none_is_awaited_of_what_costs_nothing_or_is_not_known(self, money: Money | None) -> None:
        assert self.quoted(money).awaited_bills == ()

    def test_a_timer_ends_the_wait(self) -> None:
        facts = self.quoted()
        projected = project(facts, SETTING)
        assert isinstance(projected, Projected)
        landed = replace(facts, awaited_previews=())
        assert next_wakeup_us(projected, facts, SETTING) == (NOW_NS + LANDS_WITHIN_NS) // 1000
        due_us = min(bill.due_ns for bill in landed.awaited_bills) // 1000
        assert next_wakeup_us(projected, landed, SETTING) == due_us

    def test_none_is_awaited_of_a_change_that_was_not_made(self) -> None:
        facts = self.quoted()
        assert without_preview(facts, "pv").awaited_bills == ()
        result = reduce(facts, event("active", 21, (Item("pri_team", 1),), period=(0, 30)))
        assert isinstance(result, Reduced)
        projected = project(result.facts, SETTING)
        assert isinstance(projected, Projected)
        assert check_awaited(facts, result.facts, projected, NOW_NS)[0].awaited_bills == ()

    def test_a_renewal_is_billed_if_the_period_has_begun_with_the_quoted_items(self) -> None:
        facts, quote = self.quoted(), Quote("pv", "tenant:acme", MONEY, NOW_NS)
        change, renewal = facts.awaited_bills
        assert is_billable(facts, change, quote)
        assert not is_billable(facts, renewal, quote)
        for items, status, expected in ((BASIC, "active", True), (PRO, "active", False), (BASIC, "past_due", False)):
            result = reduce(facts, event(status, 31, items, period=(30, 60)))
            assert isinstance(result, Reduced)
            assert is_billable(result.facts, renewal, quote) is expected
        assert not is_billable(replace(facts, subscriptions={}), change, quote)
