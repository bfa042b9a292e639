"""A question reaches every gateway, each answers once, and one that does not is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from gateway.fleet import ask
from gateway.fleet.ask import FleetQuery
from gateway.fleet.question_formats import AcksFormat, ConsoleFormat
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
