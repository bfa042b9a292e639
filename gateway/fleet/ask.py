"""Queries to all gateways over the control channel: sends questions, collects answers, and answers other gateways.

There are two kinds of questions: a topic's acknowledgements, and the questions of consoles. Their formats must stay
compatible with other builds in the same deployment. All answers to a question are under one key, which expires. A
gateway that does not answer in time is reported as silent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from gateway.hub.hub import Hub
from gateway.hub.topic import LiveTopic
from sync.store.command_pipeline import run_commands
from sync.store.keys import Keys
from sync.store.models import StoreError
from sync.store.store import Store

ANSWER_S = 0.6
"""Seconds that all gateways together have to answer."""

POLL_S = 0.02
"""Seconds between two reads of the answers."""

KEEP_S = 5
"""Seconds until the answers to a question are dropped."""

QUESTIONS_MAX = 100
"""Maximum number of questions that wait for this gateway's answer. Beyond it new questions stay unanswered."""

Answerer = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Takes the kind of a question and its parameters; returns this gateway's answer (a JSON value), or None for none."""

Command = tuple[str | bytes | int, ...]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Question:
    """A question to all gateways.

    Attributes:
        id: part of the key of its answers.
        what: the kind of question.
        about: its parameters, as JSON values.
        sender: the gateway that asks; "" if it answers its own question over the channel too.
    """

    id: str
    what: str
    about: Mapping[str, Any]
    sender: str = ""


class AcksFormat:
    """Questions about a topic's acknowledgements: one hash per question, a field per gateway. The asker answers too."""

    op = "acks"
    log_name = "acks"

    def encode(self, question: Question) -> dict[str, Any]:
        """Return the question as a control message."""
        return {"op": self.op, "topic": question.about["topic"], "id": question.id}

    def decode(self, message: Mapping[str, Any]) -> Question | None:
        """Return the question in a control message, None where it has the wrong form."""
        topic, id = message.get("topic"), message.get("id")
        return Question(id, self.op, {"topic": topic}) if isinstance(topic, str) and isinstance(id, str) else None

    def key(self, keys: Keys, id: str) -> str:
        """Return the key of the answers."""
        return keys.acks(id)

    def append(self, key: str, gateway: str, answer: object) -> Command:
        """Return the command that adds the answer of `gateway`."""
        return ("HSET", key, gateway, orjson.dumps(answer))

    def read(self, key: str) -> Command:
        """Return the command that reads all answers."""
        return ("HGETALL", key)

    def answers(self, reply: Any) -> dict[str, Any]:
        """Return the answers in the reply to `read`, by gateway."""
        return {gateway.decode(): orjson.loads(answer) for gateway, answer in reply.items()}


class ConsoleFormat:
    """Questions of a console: one list per question. The asker's own answer is not sent through the store."""

    op = "ask"
    log_name = "survey"

    def encode(self, question: Question) -> dict[str, Any]:
        """Return the question as a control message."""
        about = {"id": question.id, "what": question.what, "about": dict(question.about)}
        return {"op": self.op, "from": question.sender, **about}

    def decode(self, message: Mapping[str, Any]) -> Question | None:
        """Return the question in a control message, None where it has the wrong form."""
        id, what, about = message.get("id"), message.get("what"), message.get("about")
        if not isinstance(id, str) or not isinstance(what, str) or not isinstance(about, dict):
            return None
        return Question(id, what, about, str(message.get("from", "")))

    def key(self, keys: Keys, id: str) -> str:
        """Return the key of the answers."""
        return keys.answers(id)

    def append(self, key: str, gateway: str, answer: object) -> Command:
        """Return the command that adds the answer of `gateway`."""
        return ("RPUSH", key, orjson.dumps([gateway, answer]))

    def read(self, key: str) -> Command:
        """Return the command that reads all answers."""
        return ("LRANGE", key, 0, -1)

    def answers(self, reply: Any) -> dict[str, Any]:
        """Return the answers in the reply to `read`, by gateway."""
        return dict(map(orjson.loads, reply))


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers by gateway, and the sorted gateways that did not answer in time."""

    of: dict[str, Any]
    silent: tuple[str, ...]

    @property
    def documents(self) -> dict[str, dict[str, Any]]:
        """The answers that are JSON objects, by gateway, in order."""
        return {name: answer for name, answer in sorted(self.of.items()) if isinstance(answer, dict)}


class FleetQuery:
    """One gateway's questions and answers of one format. The owner runs `run` as a task."""

    def __init__(
        self, store: Store, gateway: str, question_format: AcksFormat | ConsoleFormat, answer: Answerer
    ) -> None:
        """Ask and answer as `gateway`. `answer` returns its answer to a question."""
        self._store = store
        self._gateway = gateway
        self._format = question_format
        self._answer = answer
        self._questions: asyncio.Queue[Question] = asyncio.Queue(QUESTIONS_MAX)

    def heard(self, message: Mapping[str, Any]) -> None:
        """Take a control message; questions that this gateway has sent and answered itself are ignored."""
        question = self._format.decode(message)
        if question is not None and question.sender != self._gateway and not self._questions.full():
            self._questions.put_nowait(question)

    async def run(self) -> None:
        """Answer questions until cancelled."""
        while True:
            question = await self._questions.get()
            try:
                answer = await self._answer(question.what, question.about)
                key = self._format.key(self._store.keys, question.id)
                append = self._format.append(key, self._gateway, answer)
                await run_commands(self._store, append, ("EXPIRE", key, KEEP_S))
            except StoreError as error:
                topic = question.about.get("topic")
                log.warning(f"{self._format.log_name}_unanswered", what=question.what, topic=topic, error=str(error))

    async def ask_everyone(self, what: str, about: Mapping[str, Any]) -> tuple[list[Any], int]:
        """Ask all gateways that are subscribed to the control channel, this one among them.

        Returns:
            The answers given within ANSWER_S, and how many gateways received the question and did not answer.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        id, heard = await self._send(what, about, sender="")
        found = await self._collect(id, lambda answered: len(answered) >= heard)
        return list(found.values()), max(0, heard - len(found))

    async def ask_others(self, others: Set[str], what: str, about: Mapping[str, Any]) -> Answers:
        """Return this gateway's own answer, and the answers of the gateways `others` within ANSWER_S.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        id = ""
        if others:
            id, _ = await self._send(what, about, self._gateway)
        found = {self._gateway: await self._answer(what, about)}
        if others:
            found |= await self._collect(id, lambda answered: others <= answered)
        return Answers(found, tuple(sorted(others - found.keys())))

    async def _send(self, what: str, about: Mapping[str, Any], sender: str) -> tuple[str, int]:
        """Return the question's id and how many gateways received it."""
        id = secrets.token_hex(8)
        message = orjson.dumps(self._format.encode(Question(id, what, about, sender)))
        return id, await self._store.publish(self._store.keys.control_channel, message)

    async def _collect(self, id: str, is_complete: Callable[[Set[str]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_S
        key = self._format.key(self._store.keys, id)
        found: dict[str, Any] = {}
        while not is_complete(found.keys()) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            (reply,) = await run_commands(self._store, self._format.read(key))
            found = self._format.answers(reply)
        return found


class Acks(FleetQuery):
    """Questions and answers about acknowledgements."""

    def __init__(self, store: Store, hub: Hub, gateway: str) -> None:
        """Answer as `gateway` from the live topics of `hub`."""

        async def answer(_: str, about: Mapping[str, Any]) -> dict[str, int]:
            return summary(hub.topic(str(about["topic"])))

        super().__init__(store, gateway, AcksFormat(), answer)

    async def of_topic(self, topic: str) -> dict[str, int]:
        """Return what the tabs of a topic have acknowledged, across all gateways that answer in time.

        Returns:
            sessions: tabs that have it open. acked_min, acked_max: the versions that they show, if any tab has acked.
            unacked: tabs that have not acknowledged the newest version (in a crowd only a share of them is asked to).
            nacked: tabs that could not use it. gateways: how many answered. silent: how many did not.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return together(*await self.ask_everyone(AcksFormat.op, {"topic": topic}))


def summary(live: LiveTopic | None) -> dict[str, int]:
    """Return one gateway's part of the answer; acked_min and acked_max are left out if no tab has acked."""
    if live is None:
        return {"sessions": 0, "unacked": 0, "nacked": 0}
    # A tab that subscribed with the newest version does not acknowledge it again.
    shown = [max(tab.acked, tab.client_version if tab.sent == tab.client_version else 0) for tab in live.subscriptions]
    said = [version for version in shown if version]
    counts = {
        "sessions": len(shown),
        "unacked": sum(version < live.version for version in shown),
        "nacked": sum(tab.nacked == live.version > tab.acked for tab in live.subscriptions),
    }
    return counts | ({"acked_min": min(said), "acked_max": max(said)} if said else {})


def together(answers: list[dict[str, int]], silent: int) -> dict[str, int]:
    """Return the answers of several gateways as one."""
    counts = {name: sum(answer[name] for answer in answers) for name in ("sessions", "unacked", "nacked")}
    for name, choose in (("acked_min", min), ("acked_max", max)):
        said = [answer[name] for answer in answers if name in answer]
        if said:
            counts[name] = choose(said)
    return counts | {"gateways": len(answers), "silent": silent}
