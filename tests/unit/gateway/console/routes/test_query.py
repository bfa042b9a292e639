"""The parts of a console request: what has the wrong form is a problem that says what is expected."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.console.routes import query
from sync.http.problem import Problem


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
