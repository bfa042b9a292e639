"""Questions and answers have the form that the build of the release before sends and reads."""

from __future__ import annotations

import orjson
import pytest

from gateway.fleet.question_formats import AcksFormat, ConsoleFormat, Question
from sync.store.keys import Keys

KEYS = Keys("pw")


def test_a_question_about_acknowledgements() -> None:
    acks, question = AcksFormat(), Question("1f", "acks", {"topic": "tenant:acme"})
    message = acks.encode(question)
    assert message == {"op": "acks", "topic": "tenant:acme", "id": "1f"}
    assert acks.decode(message) == question
    key = acks.key(KEYS, "1f")
    assert key == "pw:{acks:1f}"
    assert acks.append(key, "one", {"sessions": 2}) == ("HSET", key, "one", b'{"sessions":2}')
    assert acks.read(key) == ("HGETALL", key)
    assert acks.answers({b"one": b'{"sessions":2}'}) == {"one": {"sessions": 2}}


def test_a_question_of_a_console() -> None:
    console, question = ConsoleFormat(), Question("1f", "tabs", {"topic": "tenant:acme"}, "one")
    message = console.encode(question)
    assert message == {"op": "ask", "from": "one", "id": "1f", "what": "tabs", "about": {"topic": "tenant:acme"}}
    assert console.decode(orjson.loads(orjson.dumps(message))) == question
    key = console.key(KEYS, "1f")
    assert key == "pw:{console/1f}:answers"
    assert console.append(key, "two", None) == ("RPUSH", key, b'["two",null]')
    assert console.read(key) == ("LRANGE", key, 0, -1)
    assert console.answers([b'["two",null]', b'["three",[1]]']) == {"two": None, "three": [1]}


@pytest.mark.parametrize("message", [{}, {"id": "1"}, {"id": 1, "topic": "t"}, {"id": "1", "topic": None}])
def test_an_incomplete_question_about_acknowledgements_is_none(message: dict[str, object]) -> None:
    assert AcksFormat().decode(message) is None


@pytest.mark.parametrize(
    "message",
    [{}, {"id": "1", "what": "tabs"}, {"id": "1", "what": "tabs", "about": []}, {"what": "tabs", "about": {}}],
)
def test_an_incomplete_question_of_a_console_is_none(message: dict[str, object]) -> None:
    assert ConsoleFormat().decode(message) is None
