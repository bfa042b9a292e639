"""A question reaches every gateway, each answers once, and one that does not is named.

Questions and answers have the form that the build of the release before sends and reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from gateway.fleet import ask
from gateway.fleet.ask import AcksFormat, ConsoleFormat, FleetQuery, Question, summary, together
from sync.store.keys import Keys
from sync.store.store import Store
from tests.support.memory_store import memory_store


class Fleet:
    """Gateways on one store, each with its tasks; `say` is the control channel."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.console: dict[str, FleetQuery] = {}
        self.acks: dict[str, FleetQuery] = {}
        self.messages: list[Mapping[str, Any]] = []

    def add(self, name: str) -> None:
        async def answer(what: str, about: Mapping[str, Any]) -> object:
            return {"from": name, "what": what, **about}

        self.console[name] = FleetQuery(self.store, name, ConsoleFormat(), answer)
        self.acks[name] = FleetQuery(self.store, name, AcksFormat(), answer)

    async def say(self, channel: str, payload: bytes) -> int:
        assert channel == self.store.keys.control_channel
        message = orjson.loads(payload)
        self.messages.append(message)
        queries = self.console if message["op"] == "ask" else self.acks
        for query in queries.values():
            query.heard(message)
        return len(queries)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with memory_store() as store:
        found = Fleet(store)
        monkeypatch.setattr(store, "publish", found.say)
        for name in ("one", "two", "three"):
            found.add(name)
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "POLL_S", 0.001)


async def test_the_named_gateways_are_waited_for_and_the_own_answer_does_not_travel(fleet: Fleet) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(query.run()) for query in fleet.console.values()]
        answers = await fleet.console["one"].ask_others({"two", "three"}, "tabs", {"topic": "tenant:acme"})
        for task in tasks:
            task.cancel()
    assert answers.silent == ()
    assert answers.documents == {
        name: {"from": name, "what": "tabs", "topic": "tenant:acme"} for name in ("one", "three", "two")
    }
    key = ConsoleFormat().key(fleet.store.keys, fleet.messages[0]["id"])
    assert await fleet.store.redis.llen(key) == 2
    assert 0 < await fleet.store.redis.ttl(key) <= ask.KEEP_S


async def test_a_gateway_that_does_not_answer_in_time_is_named(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "ANSWER_S", 0.05)
    answers = await fleet.console["one"].ask_others({"two"}, "tabs", {})
    assert (list(answers.of), answers.silent) == (["one"], ("two",))


async def test_alone_a_gateway_asks_nobody(fleet: Fleet) -> None:
    answers = await fleet.console["one"].ask_others(set(), "tabs", {})
    assert (list(answers.of), answers.silent, fleet.messages) == (["one"], (), [])


async def test_everyone_who_receives_the_question_is_counted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "ANSWER_S", 0.3)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fleet.acks[name].run()) for name in ("one", "two")]
        answers, silent = await fleet.acks["one"].ask_everyone("acks", {"topic": "tenant:acme"})
        for task in tasks:
            task.cancel()
    assert sorted(answer["from"] for answer in answers) == ["one", "two"]
    assert silent == 1


async def test_questions_beyond_the_bound_stay_unanswered(fleet: Fleet) -> None:
    query = fleet.acks["one"]
    for number in range(ask.QUESTIONS_MAX + 5):
        query.heard({"op": "acks", "topic": "tenant:acme", "id": str(number)})
    assert query._questions.qsize() == ask.QUESTIONS_MAX


# The form of questions and answers.

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


# The parts of several gateways become one answer.


def test_a_topic_that_is_not_live_here_has_no_tabs() -> None:
    assert summary(None) == {"sessions": 0, "unacked": 0, "nacked": 0}


def test_counts_are_added_and_versions_span_all_gateways() -> None:
    here = {"sessions": 2, "unacked": 1, "nacked": 0, "acked_min": 5, "acked_max": 7}
    there = {"sessions": 1, "unacked": 0, "nacked": 1, "acked_min": 3, "acked_max": 3}
    nothing = {"sessions": 0, "unacked": 0, "nacked": 0}
    assert together([here, there, nothing], 2) == {
        "sessions": 3, "unacked": 1, "nacked": 1, "acked_min": 3, "acked_max": 7, "gateways": 3, "silent": 2,
    }  # fmt: skip


def test_versions_that_nobody_has_acknowledged_are_left_out() -> None:
    assert together([], 1) == {"sessions": 0, "unacked": 0, "nacked": 0, "gateways": 0, "silent": 1}
