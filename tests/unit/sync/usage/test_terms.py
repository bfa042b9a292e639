"""Terms of meters: what a tenant's state says of limits, periods and credits."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from planwire_client.core.commit import BILLING, PUBLISHER
from sync.billing.catalog.catalog import parse
from sync.core import instants
from sync.usage.meters import Meters, meters_of
from sync.usage.terms import terms

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { api_calls = 3, seats = 1 }

[plans.pro]
name = "Pro"
rank = 20
limits = { api_calls = 1000, seats = "unlimited" }
credits = { ai = 50 }

[meters.api_calls]
kind = "consumable"

[meters.seats]
kind = "allocated"

[meters.ai]
kind = "credits"
reset = "month"
"""
METERS = meters_of(parse(CATALOG))
NOW_US = instants.parse("2026-11-20T00:00:00Z") // 1000
PRO = {
    "plan": {"key": "pro"},
    "status": "active",
    "limits": {"api_calls": 1000, "seats": "unlimited", "ai": 50},
    "period": {"starts_at": "2026-11-15T00:00:00Z", "ends_at": "2026-12-15T00:00:00Z"},
}


def told(
    state: object, owner: str = BILLING, version: str = "7", periods: bytes = b"", meters: Meters = METERS
) -> dict[str, Any]:
    found = orjson.loads(terms(meters, version, owner, orjson.dumps(state), periods, NOW_US))
    assert found["version"] == version
    for each in found["meters"].values():
        each["terms"] = orjson.loads(each["terms"])
    return dict(found)


def test_limits_and_windows_of_a_subscription() -> None:
    found = told(PRO)["meters"]
    assert {name: each["terms"].get("limit") for name, each in found.items()} == {
        "api_calls": 1000,
        "seats": -1,
        "ai": 50,
    }
    assert [instants.text_us(one)[:10] for one in found["api_calls"]["windows"][:2]] == ["2026-11-15", "2026-12-15"]
    assert found["seats"]["windows"] == []
    assert found["api_calls"]["terms"]["plan"] == "pro"


def test_a_tenant_without_a_state_has_the_default_plan() -> None:
    found = told(None, version="0")["meters"]
    assert found["api_calls"]["terms"]["limit"] == 3
    assert instants.text_us(found["api_calls"]["windows"][0])[:10] == "2026-11-01"


@pytest.mark.parametrize(("owner", "limit"), [(BILLING, 0), (PUBLISHER, None)])
def test_a_limit_that_a_state_lacks(owner: str, limit: int | None) -> None:
    """Billing leaves out what a plan does not sell; what a publisher leaves out is not known."""
    found = told({"plan": {"key": "x"}, "limits": {}}, owner=owner)["meters"]
    assert found["api_calls"]["terms"].get("limit") == limit


@pytest.mark.parametrize("limit", ["12", -1, 1.5, True, None, {}])
def test_a_limit_that_is_no_number_is_not_known(limit: object) -> None:
    assert "limit" not in told({"limits": {"api_calls": limit}}, owner=PUBLISHER)["meters"]["api_calls"]["terms"]


def test_the_last_period_goes_on_while_a_payment_is_due() -> None:
    before = orjson.dumps(orjson.loads(told(PRO)["periods"]))
    due = {name: value for name, value in PRO.items() if name != "period"} | {"status": "past_due"}
    assert told(due, periods=before)["meters"]["api_calls"]["windows"] == told(PRO)["meters"]["api_calls"]["windows"]
    over = due | {"status": "none"}
    found = told(over, periods=before)["meters"]["api_calls"]["windows"]
    assert instants.text_us(found[0])[:10] == "2026-11-01"


def test_credits_that_were_bought_once_are_grants() -> None:
    credits = [{"id": "a", "amount": 5, "ends_at": "2026-12-01T00:00:00Z"}, {"id": "b", "amount": 7}]
    ended = {"id": "c", "amount": 9, "ends_at": "2026-11-19T00:00:00Z"}
    found = told(PRO | {"credits": {"ai": [*credits, ended]}})["meters"]
    assert found["ai"]["grants"] == [["a", 5, instants.parse("2026-12-01T00:00:00Z") // 1000], ["b", 7, 0]]
    assert found["api_calls"]["grants"] == []


def test_the_meters_of_an_application() -> None:
    catalog = """
    [policy]
    app = "crm"

    [plans.free]
    name = "Free"
    rank = 0
    default = true
    limits = { contacts = 5 }

    [plans.crm_pro]
    name = "CRM Pro"
    rank = 10
    app = "crm"
    limits = { contacts = 100 }

    [plans.mail_pro]
    name = "Mail Pro"
    rank = 10
    app = "mail"
    limits = { contacts = 900 }

    [meters.contacts]
    kind = "allocated"
    app = "mail"
    """
    state = {"limits": {"contacts": 900}, "apps": {"mail": {"limits": {"contacts": 7}}, "crm": {"limits": {}}}}
    found = told(state, meters=meters_of(parse(catalog)))["meters"]["contacts"]["terms"]
    assert found["limit"] == 7


def test_the_digest_changes_with_a_meter_and_with_the_default_plan() -> None:
    others = [CATALOG.replace("api_calls = 3", "api_calls = 4"), CATALOG + "overage = 'soft'\n"]
    assert len({METERS.digest, *(meters_of(parse(other)).digest for other in others)}) == 3


def test_where_no_billing_is_a_tenant_without_a_state_has_no_known_limit() -> None:
    found = told(None, owner=PUBLISHER, version="0")["meters"]
    assert [name for name, meter in found.items() if "limit" in meter["terms"]] == []
