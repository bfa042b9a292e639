"""A quote is kept until it is billed, and compared with its own bills only."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, strategies as st

from sync.billing.domain.facts.drift import money_drift
from sync.billing.domain.money.model import (
    AMOUNT_MAX,
    CHANGE,
    RENEWAL,
    Bill,
    Billed,
    Line,
    Money,
    amount,
    currency_of,
    exponent,
)
from sync.billing.domain.money.quote import CHANGED_WITHIN_NS, DELIVERED_WITHIN_S, HOUR_NS, KEPT_MAX_S, Quote, quote_of

NOW_NS = 1_795_000_000 * 10**9
NEXT_NS = NOW_NS + 240 * HOUR_NS
NOW = Bill((Line("pri_pro", 2, 1000, 0, 190, 1190, proration=True),), 1000, 0, 190, 1190, 0, 0, 1190)
NEXT = Bill((Line("pri_pro", 2, 2000, 0, 380, 2380),), 2000, 0, 380, 2380, 0, 0, 2380)
MONEY = Money("EUR", 2, NOW, NEXT, NEXT_NS, NOW_NS)
QUOTE = Quote("pv_1", "tenant:acme", MONEY, NOW_NS)


def billed(reason: str, at_ns: int, bill: Bill, currency: str = "EUR") -> Billed:
    return Billed("txn_1", "sub_1", reason, currency, at_ns, bill)


amounts = st.none() | st.integers(-AMOUNT_MAX, AMOUNT_MAX)
lines = st.builds(Line, st.none() | st.just("pri_x"), st.none() | st.integers(0, 9), *[amounts] * 4, st.booleans())
bills = st.builds(Bill, st.none() | st.lists(lines, max_size=3).map(tuple), *[amounts] * 7)


@given(bills, st.none() | bills, st.none() | st.integers(0, 2**60), st.none() | st.integers(0, 2**60))
def test_what_is_stored_is_read_again(
    now: Bill, following: Bill | None, next_ns: int | None, at_ns: int | None
) -> None:
    quote = replace(QUOTE, money=Money("JPY", 0, now, following, next_ns, at_ns))
    again = Quote.decode(quote.encode())
    assert again.encode() == quote.encode()
    if following not in (None, Bill()) or next_ns is None:
        assert again == quote


@given(bills, st.randoms(use_true_random=False))
def test_a_bill_like_its_quote_is_no_drift_in_any_order_of_its_lines(bill: Bill, random: Random) -> None:
    quote = replace(QUOTE, money=replace(MONEY, now=bill))
    shuffled = bill
    if bill.lines is not None:
        shuffled = bill._replace(lines=tuple(random.sample(bill.lines, len(bill.lines))))
    assert quote.differences(billed(CHANGE, NOW_NS, shuffled)) == []


@pytest.mark.parametrize(
    ("reason", "at_ns", "is_of"),
    [
        (CHANGE, NOW_NS, True),
        (CHANGE, NOW_NS - 10**9, True),
        (CHANGE, NOW_NS - HOUR_NS, False),
        (CHANGE, NOW_NS + CHANGED_WITHIN_NS + 1, False),
        (RENEWAL, NEXT_NS, True),
        (RENEWAL, NEXT_NS + HOUR_NS, True),
        (RENEWAL, NEXT_NS - 2 * HOUR_NS, False),
        (RENEWAL, NEXT_NS + 72 * HOUR_NS, False),
        ("other", NOW_NS, False),
    ],
)
def test_a_bill_belongs_to_its_quote_by_reason_and_time(reason: str, at_ns: int, is_of: bool) -> None:
    assert QUOTE.is_of(billed(reason, at_ns, NEXT)) is is_of


def test_the_tiers_of_a_price_are_billed_in_a_line_each() -> None:
    tiers = (Line("pri_pro", 10, 1000), Line("pri_pro", 5, 250), Line("pri_pro", 2, 100, proration=True))
    assert Bill(tiers).units == Bill(tiers[::-1]).units == {"pri_pro": 15}
    assert Bill((Line("pri_pro", 10), Line("pri_pro"))).units == {"pri_pro": None}
    quote = replace(QUOTE, money=replace(MONEY, next=NEXT._replace(lines=tiers)))
    assert quote.is_of(billed(RENEWAL, NEXT_NS, NEXT._replace(lines=tiers[::-1])))


def test_a_renewal_of_other_units_is_of_a_later_change() -> None:
    other = NEXT._replace(lines=(Line("pri_pro", 3, 3000),))
    assert not QUOTE.is_of(billed(RENEWAL, NEXT_NS, other))
    assert not QUOTE.is_of(billed(RENEWAL, NEXT_NS, NEXT._replace(lines=None)))
    assert not replace(QUOTE, money=replace(MONEY, next=None)).is_of(billed(RENEWAL, NEXT_NS, NEXT))


class TestSeveral:
    """A bill is of one of several quotes of its subscription."""

    def quote(self, name: str, after_s: int, due: int | None) -> Quote:
        now = NOW._replace(due=due, total=due)
        money = None if due is None else replace(MONEY, now=now)
        return Quote(name, "tenant:acme", money, NOW_NS + after_s * 10**9)

    def bill(self, due: int, after_s: int, id: str = "txn_1") -> Billed:
        return billed(CHANGE, NOW_NS + after_s * 10**9, NOW._replace(due=due, total=due))._replace(id=id)

    @pytest.mark.parametrize(
        ("due", "after_s", "name"),
        [
            (100, 5, "pv_1"),
            (100, 65, "pv_1"),  # late, and as it was quoted
            (200, 65, "pv_2"),
            (101, 5, "pv_1"),
            (201, 65, "pv_2"),  # as neither was quoted: of the last one before it
        ],
    )
    def test_of_the_one_that_it_fits_else_of_the_last_one_before_it(self, due: int, after_s: int, name: str) -> None:
        quotes = [self.quote("pv_2", 60, 200), self.quote("pv_1", 0, 100)]
        found = quote_of(self.bill(due, after_s), quotes, {})
        assert found is not None
        assert found.preview_id == name

    def test_a_quote_that_is_billed_takes_no_other_bill(self) -> None:
        quotes, claims = [self.quote("pv_1", 0, 100), self.quote("pv_2", 60, 100)], {("pv_1", CHANGE): "txn_1"}
        again, other = (
            quote_of(self.bill(100, 5), quotes, claims),
            quote_of(self.bill(100, 65, "txn_2"), quotes, claims),
        )
        assert again is not None
        assert other is not None
        assert (again.preview_id, other.preview_id) == ("pv_1", "pv_2")
        assert quote_of(self.bill(100, 5, "txn_2"), quotes[:1], claims) is None

    def test_a_change_without_a_quote_is_between(self) -> None:
        quotes = [self.quote("pv_1", 0, 100), self.quote("pv_2", 60, None)]
        found = quote_of(self.bill(500, 65), quotes, {})
        assert found is not None
        assert (found.preview_id, found.differences(self.bill(500, 65))) == ("pv_2", [])

    def test_a_renewal_is_of_the_last_change(self) -> None:
        renewal = billed(RENEWAL, NEXT_NS, NEXT)
        found = quote_of(renewal, [self.quote("pv_2", 60, 200), self.quote("pv_1", 0, 100)], {})
        assert found is not None
        assert found.preview_id == "pv_2"
        assert quote_of(renewal, [self.quote("pv_1", 0, 100), self.quote("pv_2", 60, None)], {}) is None


def test_drift_names_both_amounts_and_their_currency() -> None:
    drift = money_drift(QUOTE, billed(RENEWAL, NEXT_NS, NEXT._replace(tax=400, total=2400, due=2400)), 7)
    assert drift is not None
    assert (drift.kind, drift.topic, drift.subject, drift.why) == (
        "money", "tenant:acme", "pv_1", "renewal billed as txn_1",
    )  # fmt: skip
    assert drift.here == {"currency": "EUR", "tax": 380, "total": 2380, "amount": 2380}
    assert drift.there == {"currency": "EUR", "tax": 400, "total": 2400, "amount": 2400}
    dollars = money_drift(QUOTE, billed(CHANGE, NOW_NS, NOW, "USD"), 7)
    assert dollars is not None
    assert (dollars.here, dollars.there) == ({"currency": "EUR"}, {"currency": "USD"})


def test_a_quote_is_kept_until_its_renewal_is_delivered() -> None:
    kept_s = QUOTE.kept_s(NOW_NS)
    assert kept_s == (240 + 48) * 3600 + DELIVERED_WITHIN_S
    assert QUOTE.kept_s(NEXT_NS + 1000 * HOUR_NS) == DELIVERED_WITHIN_S
    far = replace(QUOTE, money=replace(MONEY, next_ns=NOW_NS + 10**6 * HOUR_NS))
    assert far.kept_s(NOW_NS) == KEPT_MAX_S


@pytest.mark.parametrize(("value", "read"), [(12, 12), ("12", 12), ("-12", -12), (-3, -3), (0, 0), ("0", 0)])
def test_an_amount_is_a_whole_number(value: object, read: int) -> None:
    assert amount(value) == read


@pytest.mark.parametrize("value", [1.5, 1.0, "1.5", True, None, "", "--1", "٣", 2**53, [], "1e3"])
def test_anything_else_is_not_known(value: object) -> None:
    assert amount(value) is None


def test_currencies_are_iso_codes() -> None:
    assert [currency_of(value) for value in ("eur", "USD", "", "euro", None, 3, "é$1")] == ["EUR", "USD", *[None] * 5]
    assert [exponent(code) for code in ("EUR", "JPY", "KWD", "CLF")] == [2, 0, 3, 4]
