"""The calls of a batch: what each operation takes, and whom the caller may count for."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.api.operations import Asked
from sync.billing.catalog.catalog import parse
from sync.http.endpoint import Caller, trusted
from sync.http.problem import Problem
from sync.usage.api.batch import batched_call
from sync.usage.calls import Call

CATALOG = parse(
    '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\nlimits = { calls = 3, seats = 1 }\n'
    '[meters.calls]\nkind = "consumable"\n[meters.seats]\nkind = "allocated"\n'
)


def call(caller: Caller | None = None, environment: str = "live", **members: Any) -> Call | Problem:
    item = {"tenant": "acme", "meter": "calls", **members}
    return batched_call(Asked(environment, caller=caller or trusted("tests")), item, CATALOG)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, Call("tenant:acme", "consume", "calls", 1)),
        ({"amount": 4, "key": "k"}, Call("tenant:acme", "consume", "calls", 4, key="k")),
        ({"operation": "release"}, Call("tenant:acme", "release", "calls", 1)),
        ({"operation": "set", "meter": "seats", "amount": 0}, Call("tenant:acme", "set", "seats", 0)),
        (
            {"operation": "finalize", "id": "j", "amount": 2},
            Call("tenant:acme", "finalize", "calls", 2, id="j"),
        ),
        ({"operation": "finalize", "id": "j", "amount": 0}, Call("tenant:acme", "cancel", "calls", 0, id="j")),
        ({"tenant": "auth0|5f"}, Call("tenant:auth0%7C5f", "consume", "calls", 1)),
    ],
)
def test_an_item_is_the_call_that_its_own_route_makes(members: dict[str, Any], expected: Call) -> None:
    assert call(**members) == expected


def test_a_reservation_lasts() -> None:
    """The store's clock says until when: those of the callers differ."""
    asked: dict[str, Any] = {"operation": "reserve", "id": "j", "amount": 2}
    assert call(**asked) == Call("tenant:acme", "reserve", "calls", 2, id="j", lasts_us=300_000_000)
    assert call(**asked, seconds=1) == Call("tenant:acme", "reserve", "calls", 2, id="j", lasts_us=1_000_000)


@pytest.mark.parametrize(
    ("members", "code", "says"),
    [
        ({"amount": 0}, "request_invalid", "amount must be 1 or more for consume"),
        ({"operation": "reserve", "id": "j", "amount": 0}, "request_invalid", "amount must be 1 or more for reserve"),
        ({"operation": "set", "meter": "seats"}, "request_invalid", "amount is missing"),
        ({"operation": "finalize", "id": "j"}, "request_invalid", "amount is missing"),
        ({"operation": "set", "amount": 1}, "not_for_meter", "calls is consumable"),
        ({"operation": "finalize", "amount": 1}, "request_invalid", "id: reserve and finalize need it"),
        ({"id": "j"}, "request_invalid", "no other operation takes it"),
        ({"operation": "reserve", "id": "j", "amount": 1, "key": "k"}, "request_invalid", "key: reserve takes none"),
        ({"seconds": 9}, "request_invalid", "seconds: only reserve"),
        ({"tenant": "undefined"}, "request_invalid", "tenant: "),
    ],
)
def test_what_cannot_be_counted_says_why(members: dict[str, Any], code: str, says: str) -> None:
    problem = call(**members)
    assert isinstance(problem, Problem)
    assert problem.code == code
    assert says in problem.detail


def test_each_item_needs_the_right_for_its_tenant() -> None:
    seen = []

    def denial(scope: str, topic: str | None) -> tuple[str, str] | None:
        seen.append((scope, topic))
        return None if topic == "tenant:acme" else ("topic_forbidden", "not yours")

    mine = Caller("tests", denial)
    assert isinstance(call(mine), Call)
    others = [call(mine, tenant="b"), call(mine, "sandbox")]
    assert [one.code for one in others if isinstance(one, Problem)] == ["topic_forbidden"] * 2
    assert seen == [("usage", "tenant:acme"), ("usage", "tenant:b"), ("usage", "sandbox/tenant:acme")]
