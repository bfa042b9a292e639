"""Purchases and what goes back of them: the order of arrival is irrelevant, and only the whole payment takes back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog import catalog
from sync.billing.domain.decision import Decided, Delivery, Tenant, decide
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected, State, project
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Event, Facts, Item, Order, Purchase, Refund, Subscription
from sync.billing.domain.facts.moves import given as given_to
from sync.billing.domain.facts.payments import RefundKind, RefundStatus, is_paid_back
from sync.billing.domain.facts.refunds import REFUNDS_MAX, with_refunds
from sync.billing.domain.outcome import EventResult, Outcome
from tests.support.histories import CATALOG_TEXT, PRO, arrivals, at, event, histories, processed

KEY = "paddle:txn_1"
TEXT = (
    CATALOG_TEXT
    + """
[plans.lifetime]
name = "Lifetime"
rank = 30
features = ["lifetime"]
purchase = true
prices.paddle.live = ["pri_life"]

[plans.year]
name = "A year"
rank = 25
purchase = true
expires = "365d"
prices.paddle.live = ["pri_year"]

[addons.course]
name = "Course"
features = ["course"]
purchase = true
expires = "10d"
products.paddle.live = ["pro_course"]
"""
)
CATALOG = catalog.parse(TEXT)
REVOKING = catalog.parse(f'[policy]\nrefund = "revoke"\n{TEXT}')
LIFE, YEAR, COURSE = (Item(price, 1) for price in ("pri_life", "pri_year", "pri_course"))


def setting(day: float = 20, using: catalog.Catalog = CATALOG) -> Setting:
    return Setting(using, "live", (), at(day))


def bought(
    day: float, *items: Item, id: str = "txn_1", total: int | None = 1900, event_id: str = "", beside: str = ""
) -> Event:
    """The event of a one-time purchase; `beside`: the subscription whose payment it is a part of."""
    products = {"pri_course": "pro_course"}
    body = Subscription(id, "active", items, "ctm_1", created_ns=at(day), products=products)
    body = replace(body, purchase=Purchase(at(day), total, "USD", subscription_id=beside))
    made = event(
        "active", day, items, subscription=id, id=event_id or f"evt_bought_{day}", kind="transaction.completed"
    )
    return replace(made, subscription=body)


def refund(
    day: float,
    amount: int | None = 1900,
    *,
    id: str = "adj_1",
    kind: RefundKind = RefundKind.REFUND,
    status: RefundStatus = RefundStatus.APPROVED,
    made: float | None = None,
    of: str = "txn_1",
    is_full: bool = False,
    part_of: str = "",
    payment: str = "",
) -> Event:
    """The event of an adjustment."""
    event_id, made_ns = f"evt_{id}_{day}_{status}", at(day if made is None else made)
    goes_back = Refund((at(day), at(day), event_id), id, kind, status, made_ns, amount, "USD", is_full)
    is_subscriptions = of.startswith("sub_")
    goes_back = goes_back._replace(is_of_subscription=is_subscriptions, part_of=part_of, payment_id=payment)
    order = Order.of(None, at(day), event_id)
    return Event("paddle", "live", event_id, "adjustment.updated", order, subscription_id=of, refund=goes_back)


def state_of(events: Sequence[Event], day: float = 20, using: catalog.Catalog = CATALOG) -> State:
    facts, _ = processed(events, using)
    found = project(facts, setting(day, using))
    assert isinstance(found, Projected)
    return found.state


def shown(events: Sequence[Event], day: float = 20, using: catalog.Catalog = CATALOG) -> tuple[str, str]:
    state = state_of(events, day, using)
    return state["plan"]["key"], state["status"]


_days = st.integers(0, 12)
_refunds = st.builds(
    lambda day, amount, id, kind, status, made, is_full, part_of: refund(
        day, amount, id=f"adj_{id}", kind=kind, status=status, made=made, is_full=is_full, part_of=part_of
    ),
    _days,
    st.sampled_from([None, 100, 950, 1900]),
    st.integers(1, 3),
    st.sampled_from(RefundKind),
    st.sampled_from(RefundStatus),
    _days,
    st.booleans(),
    st.sampled_from(["", "", "adj_1"]),
)


@st.composite
def purchase_histories(draw: st.DrawFn) -> list[Event]:
    """Purchases and refunds among the events of subscriptions; each event id once."""
    items = st.lists(st.sampled_from([LIFE, YEAR, COURSE, Item("pri_unknown", 1), Item("pri_basic", 1)]), max_size=3)
    events = [
        bought(
            draw(_days),
            *draw(items),
            id=f"txn_{draw(st.integers(1, 2))}",
            event_id=f"evt_{number}",
            beside=draw(st.sampled_from(["", "sub_1"])),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    events += draw(st.lists(_refunds, max_size=6, unique_by=lambda each: each.event_id))
    for each in draw(histories())[:6]:
        events.append(each)
        if draw(st.booleans()):
            of, payment = str(each.subscription_id), draw(st.sampled_from(["", "txn_1", "txn_2"]))
            events.append(refund(draw(_days), id=f"adj_of_{each.event_id}", of=of, is_full=True, payment=payment))
    return events


@given(st.data())
def test_any_permutation_and_duplication_ends_the_same(data: st.DataObject) -> None:
    events = data.draw(purchase_histories())
    first, _ = processed(data.draw(arrivals(events)), CATALOG)
    second, _ = processed(data.draw(arrivals(events)), CATALOG)
    assert first == second
    assert codec.decode(codec.encode(first)) == first
    for using in (CATALOG, REVOKING):
        now = setting(data.draw(st.integers(0, 40)), using)
        assert project(first, now) == project(second, now)


@pytest.mark.parametrize(
    ("refunds", "expected"),
    [
        ([], ("lifetime", "active")),
        ([refund(3)], ("free", "canceled")),
        ([refund(3, 500)], ("lifetime", "active")),
        ([refund(3, 500), refund(4, 1400, id="adj_2")], ("free", "canceled")),
        ([refund(3, 500), refund(4, 1399, id="adj_2")], ("lifetime", "active")),
        ([refund(3, None, is_full=True)], ("free", "canceled")),
        ([refund(3, status=RefundStatus.PENDING)], ("lifetime", "active")),
        ([refund(3, status=RefundStatus.PENDING), refund(4)], ("free", "canceled")),
        ([refund(3, kind=RefundKind.CHARGEBACK)], ("free", "canceled")),
        (
            [
                refund(3, kind=RefundKind.CHARGEBACK),
                refund(4, kind=RefundKind.CHARGEBACK, status=RefundStatus.REVERSED),
            ],
            ("lifetime", "active"),
        ),
        (
            [refund(3, kind=RefundKind.CHARGEBACK), refund(5, kind=RefundKind.REVERSAL, id="adj_2")],
            ("lifetime", "active"),
        ),
        (
            [
                refund(3, kind=RefundKind.CHARGEBACK),
                refund(4, kind=RefundKind.CHARGEBACK, status=RefundStatus.REVERSED),
                refund(5, kind=RefundKind.REVERSAL, id="adj_2"),
                refund(6, kind=RefundKind.CHARGEBACK, id="adj_3"),
            ],
            ("free", "canceled"),
        ),
        ([refund(3, kind=RefundKind.REVERSAL)], ("lifetime", "active")),
    ],
)
def test_only_what_covers_the_whole_payment_takes_a_purchase_back(
    refunds: list[Event], expected: tuple[str, str]
) -> None:
    """In every order of arrival, also before the purchase."""
    for order in itertools.permutations([bought(1, LIFE), *refunds]):
        assert shown(order) == expected


def test_without_a_total_only_what_is_called_full_takes_back() -> None:
    once = bought(1, LIFE, total=None)
    assert shown([once, refund(3)]) == ("lifetime", "active")
    assert shown([once, refund(3, is_full=True)]) == ("free", "canceled")
    assert not is_paid_back([], 0)


def test_a_purchase_expires_by_time_alone() -> None:
    events = [bought(1, YEAR), bought(2, COURSE, id="txn_2")]
    state = state_of(events, 5)
    assert (state["plan"]["key"], state["status"], state["features"]["course"]) == ("year", "active", True)
    assert state["valid_until"] == "2026-11-13T00:00:00Z"
    assert "period" not in state
    later = state_of(events, 13)
    assert (later["plan"]["key"], later["features"]) == ("year", {})
    assert later["valid_until"] == "2027-11-02T00:00:00Z"
    assert shown(events, 1 + 365) == ("free", "canceled")


def test_a_purchase_stands_beside_a_subscription() -> None:
    own = event("active", 1, PRO)
    assert shown([own, bought(2, LIFE)]) == ("lifetime", "active")
    assert shown([own, bought(2, LIFE), refund(3)]) == ("pro", "active")
    both = state_of([own, bought(12, COURSE)])
    assert (both["plan"]["key"], both["features"]["course"]) == ("pro", True)
    assert shown([event("canceled", 1, PRO), bought(2, LIFE)]) == ("lifetime", "active")
    assert shown([event("past_due", 19, PRO), bought(2, LIFE)]) == ("lifetime", "active")


@pytest.mark.parametrize("price", ["pri_unknown", "pri_pro"])
def test_a_purchase_of_what_no_purchase_sells_waits_for_the_catalog(price: str) -> None:
    result = decide(Tenant("tenant:acme"), Delivery(bought(1, Item(price, 1))), setting())
    assert isinstance(result, EventResult)
    assert (result.outcome, result.waits) == (Outcome.PARKED, ("catalog", f"items:{KEY}"))
    known = "; pro has pri_pro, but not purchase = true" if price == "pri_pro" else ""
    assert result.reason == f"unknown price {price} in live{known}"


def test_the_reason_names_what_the_catalog_sells_by_the_product() -> None:
    using = catalog.parse(TEXT.replace('purchase = true\nexpires = "10d"\nproducts', "products"))
    result = decide(Tenant("tenant:acme"), Delivery(bought(1, COURSE)), setting(using=using))
    assert isinstance(result, EventResult)
    assert result.reason == "unknown price pri_course in live; course has pri_course, but not purchase = true"


def test_an_event_is_not_noted_for_the_unknown_price_of_another() -> None:
    facts, _ = processed([bought(1, LIFE, Item("pri_unknown", 1))], CATALOG)
    for other in (event("active", 2, PRO), refund(3, of="txn_1"), bought(2, COURSE, id="txn_2")):
        result = decide(Tenant("tenant:acme", facts), Delivery(other), setting())
        assert isinstance(result, Decided)
        assert (result.note, result.waits) == ("", ())


def test_known_items_of_a_purchase_count_beside_unknown_ones() -> None:
    result = decide(Tenant("tenant:acme"), Delivery(bought(1, LIFE, Item("pri_pro", 1))), setting())
    assert isinstance(result, Decided)
    assert (result.state["plan"]["key"], result.is_parked) == ("lifetime", False)
    assert result.waits == ("catalog", f"items:{KEY}")


def test_what_has_expired_does_not_come_back_for_an_item_that_is_not_sold_so() -> None:
    events = [bought(1, YEAR, Item("pri_pro", 1)), bought(2, COURSE, Item("pri_unknown", 1), id="txn_2")]
    assert shown(events, 3) == ("year", "active")
    assert "course" in state_of(events, 3)["features"]
    assert "course" not in state_of(events, 13)["features"]
    assert shown(events, 1 + 366) == ("free", "canceled")
    edited = catalog.parse(TEXT.replace('"pri_life"', '"pri_life", "pri_unknown"'))
    assert shown(events, 1 + 366, edited) == ("lifetime", "active")


class TestSubscriptions:
    """A refund of a subscription's payment."""

    OWN = event("active", 1, PRO, period=(1, 31))

    def test_it_is_kept_or_taken_by_the_policy(self) -> None:
        back = refund(3, of="sub_1", is_full=True)
        assert shown([self.OWN, back]) == shown([back, self.OWN]) == ("pro", "active")
        for order in ([self.OWN, back], [back, self.OWN]):
            assert shown(order, using=REVOKING) == ("free", "unpaid")

    def test_a_part_and_a_won_chargeback_take_nothing(self) -> None:
        assert shown([self.OWN, refund(3, 100, of="sub_1")], using=REVOKING) == ("pro", "active")
        lost = refund(3, of="sub_1", kind=RefundKind.CHARGEBACK, is_full=True)
        won = refund(4, of="sub_1", kind=RefundKind.CHARGEBACK, is_full=True, status=RefundStatus.REVERSED)
        assert shown([self.OWN, lost], using=REVOKING) == ("free", "unpaid")
        assert shown([self.OWN, lost, won], using=REVOKING) == ("pro", "active")

    def test_the_next_paid_period_gives_the_plan_back(self) -> None:
        back = refund(3, of="sub_1", is_full=True)
        renewed = event("active", 31, PRO, period=(31, 61))
        for order in itertools.permutations([self.OWN, back, renewed]):
            assert shown(order, 40, REVOKING) == ("pro", "active")

    def test_the_history_says_that_it_goes_on(self) -> None:
        facts, _ = processed([self.OWN], CATALOG)
        result = decide(Tenant("tenant:acme", facts), Delivery(refund(3, of="sub_1", is_full=True)), setting())
        assert isinstance(result, Decided)
        assert result.note == 'refund of 1900 USD: the subscription goes on, [policy] refund is "keep"'


def test_a_partial_refund_is_noted() -> None:
    facts, _ = processed([bought(1, LIFE)], CATALOG)
    result = decide(Tenant("tenant:acme", facts), Delivery(refund(3, 500)), setting())
    assert isinstance(result, Decided)
    assert result.note == "refund of 500 USD: a part of what was paid"
    again = decide(Tenant("tenant:acme", result.facts), Delivery(refund(3, 500)), setting())
    assert isinstance(again, EventResult)
    assert again.outcome is Outcome.REFUSED


def test_a_refund_of_what_is_not_known_waits_for_it() -> None:
    result = decide(Tenant("tenant:acme"), Delivery(refund(3)), setting())
    assert isinstance(result, EventResult)
    assert (result.outcome, result.waits) == (Outcome.PARKED, (f"items:{KEY}", "subscription:paddle:txn_1"))
    assert "txn_1, which is not known yet" in result.reason


def test_refunds_go_with_a_moved_purchase() -> None:
    one, _ = processed([bought(1, LIFE)], CATALOG)
    two, _ = processed([bought(2, LIFE, event_id="evt_later"), refund(3)], CATALOG)
    ends = [
        given_to(two, KEY, one.subscriptions[KEY], (), 5),
        given_to(one, KEY, two.subscriptions[KEY], (), 5),
    ]
    assert ends[0] == ends[1]
    assert ends[0].subscriptions[KEY].subscription.status == "canceled"


def test_an_older_build_does_not_take_a_purchase_for_a_subscription() -> None:
    facts, _ = processed([bought(1, LIFE), event("active", 1, PRO)], CATALOG)
    assert b'"subscriptions":{"paddle:sub_1":' in codec.encode(facts)
    assert facts.recurring.keys() == {"paddle:sub_1"}
    assert codec.decode(codec.encode(facts)) == facts
    assert codec.decode(codec.encode(NOTHING)) == Facts()


def test_refunds_are_bounded() -> None:
    facts, _ = processed([bought(1, LIFE)], CATALOG)
    many = [refund(2 + number / 1000, 1, id=f"adj_{number:03d}").refund for number in range(REFUNDS_MAX + 5)]
    entry = with_refunds(facts.subscriptions[KEY], *[each for each in many if each is not None])
    assert len(entry.refunds) == REFUNDS_MAX
    assert "adj_000" not in entry.refunds


FAILED = RefundStatus.REVERSED


@pytest.mark.parametrize(
    ("refunds", "expected"),
    [
        ([refund(3, part_of="ch_1")], "canceled"),
        ([refund(3, part_of="ch_1"), refund(4, part_of="ch_1", status=FAILED)], "active"),
        ([refund(3, id="ch_1"), refund(4, part_of="ch_1")], "canceled"),
        ([refund(3, id="ch_1"), refund(4, part_of="ch_1", status=FAILED)], "active"),
        ([refund(3, id="ch_1", is_full=True), refund(4, 500, part_of="ch_1", status=FAILED)], "active"),
        # The sum that is newer than the failure does not have it any more.
        ([refund(5, id="ch_1"), refund(4, part_of="ch_1", status=FAILED)], "canceled"),
        ([refund(3, 900, id="ch_1"), refund(3, 900, part_of="ch_1"), refund(3, 1000, id="adj_2")], "canceled"),
        ([refund(3, 900, id="ch_1"), refund(3, 900, part_of="ch_1")], "active"),
        ([refund(3, 900, part_of="ch_1"), refund(3, 1000, id="adj_2", part_of="ch_1")], "canceled"),
    ],
)
def test_a_refund_that_failed_gives_back_and_its_sum_counts_once(refunds: list[Event], expected: str) -> None:
    for order in itertools.permutations([bought(1, LIFE), *refunds]):
        assert shown(order)[1] == expected


def test_without_a_total_a_part_that_failed_leaves_less_than_all() -> None:
    whole, part = refund(3, id="ch_1", is_full=True), refund(4, 100, part_of="ch_1", status=FAILED)
    assert shown([bought(1, LIFE, total=None), whole]) == ("free", "canceled")
    assert shown([bought(1, LIFE, total=None), whole, part]) == ("lifetime", "active")


class TestBeside:
    """One-time items that a subscription's payment has bought."""

    OWN = event("active", 1, PRO, period=(1, 31))

    def test_what_goes_back_of_the_payment_counts_for_both(self) -> None:
        once = bought(1, LIFE, beside="sub_1", total=None)
        back = refund(3, of="sub_1", payment="txn_1", is_full=True)
        for order in itertools.permutations([self.OWN, once, back]):
            assert shown(order) == ("pro", "active")
            assert shown(order, using=REVOKING)[1] in ("unpaid", "canceled")
            assert shown(order, using=REVOKING)[0] == "free"

    def test_another_payment_of_the_subscription_and_a_part_take_nothing(self) -> None:
        once = bought(1, LIFE, beside="sub_1", total=None)
        other = refund(3, of="sub_1", payment="txn_2", is_full=True)
        part = refund(3, 500, of="sub_1", payment="txn_1")
        for more in (other, part):
            for order in itertools.permutations([self.OWN, once, more]):
                assert shown(order) == ("lifetime", "active")


def test_earlier_terms_of_a_plan_keep_their_expiry() -> None:
    """Who bought it for ever keeps it for ever, and who bought it for ten days for these."""
    versions = """
[[plans.year.versions]]
version = "for_life"
until = 2026-11-03T00:00:00Z
expires = "never"

[[plans.year.versions]]
version = "short"
until = 2026-11-05T00:00:00Z
expires = "10d"
"""
    edited = catalog.parse(TEXT.replace("[addons.course]", f"{versions}[addons.course]"))
    first, second, third = (bought(day, YEAR) for day in (1, 3.5, 5.5))
    assert [shown([one], 20, edited)[0] for one in (first, second, third)] == ["year", "free", "year"]
    assert [shown([one], 400, edited)[0] for one in (first, second, third)] == ["year", "free", "free"]
    assert "valid_until" not in state_of([first], 20, edited)
    assert state_of([second], 5, edited)["valid_until"] == "2026-11-14T12:00:00Z"
