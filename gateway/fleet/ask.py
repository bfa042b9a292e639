"""Asks every gateway a question over the control channel and collects the answers; answers the questions of others.

The answers of a question lie under one key that expires by itself. A gateway that does not answer in time is reported
as silent, not waited for.
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

from gateway.fleet.question_formats import Question, QuestionFormat
from sync.store.command_pipeline import run_commands
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
"""Returns this gateway's answer (a JSON value) to `what` and what belongs to it; None where it has none."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers by gateway, and the gateways that were waited for and did not answer, in order."""

    of: dict[str, Any]
    silent: tuple[str, ...]

    @property
    def documents(self) -> dict[str, dict[str, Any]]:
        """The answers that are JSON objects, by gateway, in order."""
        return {name: answer for name, answer in sorted(self.of.items()) if isinstance(answer, dict)}


class FleetQuery:
    """One gateway's questions and answers of one format. The owner runs `run` as a task."""

    def __init__(self, store: Store, gateway: str, question_format: QuestionFormat, answer: Answerer) -> None:
        """Ask and answer as `gateway`; `answer` is called for every question of another gateway."""
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
        """Return this gateway's own answer, and those that the gateways `others` give within ANSWER_S.

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
