"""Credits that are bought once: each with its end, those without one together, whatever was bought and paid back."""

from __future__ import annotations

import orjson

from sync.billing.catalog import catalog
from sync.billing.domain.entitlements.state import LASTING
from sync.billing.domain.facts.model import Item
from sync.core import instants
from tests.support.histories import CATALOG_TEXT, at
from tests.unit.sync.billing.domain.facts.test_refunds import bought, refund, state_of

CREDITS = """
[addons.pack]
name = "Pack"
purchase = true
credits = { ai = 100 }
prices.paddle.live = ["pri_pack"]

[addons.week]
name = "A week"
purchase = true
expires = "7d"
credits = { ai = 30 }
prices.paddle.live = ["pri_week"]

[meters.ai]
kind = "credits"
"""
CATALOG = catalog.parse(CATALOG_TEXT + CREDITS)
PACK, WEEK = Item("pri_pack", 2), Item("pri_week", 1)


def test_what_lasts_is_one_grant_and_what_ends_has_its_end() -> None:
    events = [bought(1, PACK, id="txn_1"), bought(2, PACK, id="txn_2"), bought(18, WEEK, id="txn_3")]
    ending, lasting = state_of(events, 20, CATALOG)["credits"]["ai"]
    assert lasting == {"id": LASTING, "amount": 400}
    assert (ending["amount"], ending["ends_at"]) == (30, instants.text(at(25)))
    assert state_of(events, 26, CATALOG)["credits"]["ai"] == [lasting]


def test_one_purchase_has_the_id_that_many_have() -> None:
    """Otherwise the second one would take back what was used of the first."""
    (one,) = state_of([bought(1, PACK, id="txn_1")], 20, CATALOG)["credits"]["ai"]
    assert one == {"id": LASTING, "amount": 200}


def test_what_is_paid_back_is_taken_off() -> None:
    events = [bought(1, PACK, id="txn_1"), bought(2, PACK, id="txn_2"), refund(3, of="txn_1")]
    assert state_of(events, 20, CATALOG)["credits"]["ai"] == [{"id": LASTING, "amount": 200}]


def test_years_of_purchases_make_no_longer_state() -> None:
    few, many = ([bought(day / 10, PACK, id=f"txn_{day}") for day in range(number)] for number in (2, 100))
    assert abs(len(orjson.dumps(state_of(many, 20, CATALOG))) - len(orjson.dumps(state_of(few, 20, CATALOG)))) < 10


def test_a_pack_of_all_applications_counts_once() -> None:
    text = CATALOG_TEXT + CREDITS.replace('name = "A week"', 'name = "A week"\napp = "crm"') + CRM
    state = state_of([bought(1, PACK, id="txn_1"), bought(18, WEEK, id="txn_2")], 20, catalog.parse(text))
    total, crm = (sum(each["amount"] for each in one["credits"]["ai"]) for one in (state, state["apps"]["crm"]))
    assert (total, crm) == (230, 230)


CRM = """
[plans.crm]
name = "CRM"
rank = 1
app = "crm"
prices.paddle.live = ["pri_crm"]
"""
