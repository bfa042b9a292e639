"""The parts of a console request: what has the wrong form is a problem that says what is expected."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from gateway.console.routes import query
from sync.http.problem import Problem


def request(text: str) -> Request:
    return Request({"type": "http", "query_string": text.encode(), "headers": []})


@pytest.mark.parametrize(("text", "found"), [("", 50), ("limit=1", 1), ("limit=200", 200)])
def test_a_number_has_a_default(text: str, found: int) -> None:
    assert query.number(request(text), "limit", 50, 200) == found


@pytest.mark.parametrize("text", ["0", "201", "-1", "x", "", "1.5", "\u0661", "9" * 17])
def test_a_number_beyond_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="from 1 to 200"):
        query.number(request(f"limit={text}"), "limit", 50, 200)


@pytest.mark.parametrize("name", ["gateway:x", "console:x", "sandbox/probe:x", "acme", "", None, 7])
def test_topics_of_the_gateways_own_and_other_texts_are_refused(name: object) -> None:
    with pytest.raises(Problem) as raised:
        query.parsed(name)
    assert raised.value.code == "topic_invalid"


@pytest.mark.parametrize("body", [{}, {"topic": "tenant:a", "more": 1}, {"topic": 1}, {"topic": ""}])
def test_a_body_has_its_topic_and_nothing_else(body: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        query.only_topic(body)
    assert str(query.only_topic({"topic": "tenant:a"})) == "tenant:a"


def test_members_are_left_out_by_name() -> None:
    assert query.without({"a": 1, "b": 2}, "b", "c") == {"a": 1}
