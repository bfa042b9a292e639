"""The body of a switch names exactly one choice."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.api.bodies.shadow import SwitchRequest
from sync.http.fields import Reader
from sync.http.problem import Problem

READ = Reader(SwitchRequest).read


@pytest.mark.parametrize(
    "body", [{"tenants": ["acme"]}, {"share": 0}, {"share": 12.5, "back": None}, {"all": True, "back": True}]
)
def test_one_choice_is_read(body: dict[str, Any]) -> None:
    assert READ(body).model_dump(exclude_unset=True) == body


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "exactly one of tenants, share and all"),
        ({"all": True, "tenants": None}, "exactly one of tenants, share and all"),
        ({"all": True, "tenants": ["acme"], "share": None}, "exactly one of tenants, share and all"),
        ({"share": None}, "exactly one of tenants, share and all"),
        ({"share": 101}, "share must be a number from 0 to 100"),
        ({"share": 5, "back": True}, "back does not go with share"),
    ],
)
def test_no_choice_and_two_are_a_problem(body: dict[str, Any], says: str) -> None:
    with pytest.raises(Problem, match=says):
        READ(body)
