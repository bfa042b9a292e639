"""An integer in a query has a default and bounds; what has another form is a problem that says what is expected."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from sync.http.parameters import query_integer
from sync.http.problem import Problem


def request(text: str) -> Request:
    return Request({"type": "http", "query_string": text.encode(), "headers": []})


@pytest.mark.parametrize(("text", "found"), [("", 50), ("limit=1", 1), ("limit=200", 200)])
def test_an_integer_has_a_default(text: str, found: int) -> None:
    assert query_integer(request(text), "limit", 50, 200) == found


@pytest.mark.parametrize("text", ["0", "201", "-1", "x", "", "1.5", "\u0661", "9" * 17])
def test_an_integer_beyond_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="limit must be an integer from 1 to 200"):
        query_integer(request(f"limit={text}"), "limit", 50, 200)
