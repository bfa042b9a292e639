"""The bodies of calls: numbers however clients write them, and errors that say what is expected."""

from __future__ import annotations

from typing import Any

import pytest

from sync.http.fields import Model, Reader
from sync.http.problem import Problem
from sync.usage.api import bodies


@pytest.mark.parametrize("amount", [3, 3.0])
def test_a_whole_number_is_one_however_it_is_written(amount: float) -> None:
    read = Reader(bodies.Consume).read({"amount": amount})
    assert read.amount == 3
    assert type(read.amount) is int


def test_an_optional_member_may_be_null() -> None:
    assert Reader(bodies.Consume).read({"key": None}).key is None


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (bodies.Consume, {"amount": 0}, "amount must be an integer from 1 to 1000000000000"),
        (bodies.Consume, {"amount": 2.5}, "amount must be an integer from 1 to 1000000000000"),
        (bodies.Consume, {"amount": float("nan")}, "amount must be an integer from 1 to 1000000000000"),
        (bodies.Consume, {"amount": "3"}, "amount must be an integer from 1 to 1000000000000"),
        (bodies.Consume, {"amount": True}, "amount must be an integer from 1 to 1000000000000"),
        (bodies.Reserve, {"id": "j", "amount": 1, "seconds": 0}, "seconds must be an integer from 1 to 86400"),
        (bodies.Reserve, {"amount": 1}, "id is missing"),
        (bodies.Adjust, {"reason": "x"}, "exactly one of to and by must be there"),
        (bodies.Adjust, {"to": 1, "by": 1, "reason": "x"}, "exactly one of to and by must be there"),
        (bodies.BatchCall, {"tenant": "a", "meter": "m", "seconds": 0}, "seconds must be an integer"),
    ],
)
def test_a_wrong_body_says_what_is_expected(kind: type[Model], body: dict[str, Any], says: str) -> None:
    with pytest.raises(Problem) as raised:
        Reader(kind).read(body)
    assert raised.value.code == "request_invalid"
    assert raised.value.detail.startswith(says)
