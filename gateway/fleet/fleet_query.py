"""Asking all gateways a question: the asker says it on the control channel, each answers into a list of the asker's.

For what a console needs once - a page of topics, a topic's tabs, a socket to be dropped. What it looks at all the
time is reported instead (reporter.py). A gateway that does not answer in time is named, not waited for.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
import structlog
from redis.exceptions import RedisError

from gateway.console.reports import lease
from sync.store.store import Store, StoreError

log = structlog.get_logger("gateway.console")

OP = "ask"

PATIENCE_S = 0.6
"""How long answers are waited for."""

ANSWERS_S = 5
"""How long answers that came too late are kept."""

HERE_S = 12.0
"""Gateways that said something within it are expected to answer."""

QUESTIONS_MAX = 64
"""Questions that wait to be answered; beyond, new ones are not answered."""

Answerer = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Answers what is asked (a word, and what belongs to it) for one gateway; None where it has nothing to say."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What gateways answered, by their names, and those that should have and did not."""

    of: dict[str, Any]
    silent: tuple[str, ...]


class FleetQuery:
    """One gateway's part: it asks the others, and answers them."""

    def __init__(self, store: Store, node: str, answer: Answerer) -> None:
        """Ask through `store` as `node`; `answer` answers for it."""
        self._store = store
        self._node = node
        self._answer = answer
        self._questions: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(QUESTIONS_MAX)

    def _key(self, id: str) -> str:
        return f"{self._store.keys.head(f'console/{id}')}:answers"

    def heard(self, question: Mapping[str, Any]) -> None:
        """Take a question off the control channel; the node's own it answers without it."""
        if question.get("from") != self._node and not self._questions.full():
            self._questions.put_nowait(question)

    async def run(self) -> None:
        """Answer questions until cancelled."""
        while True:
            question = await self._questions.get()
            id, what, about = question.get("id"), question.get("what"), question.get("about")
            if not isinstance(id, str) or not isinstance(what, str) or not isinstance(about, dict):
                continue
            try:
                found = await self._answer(what, about)
                key = self._key(id)
                answer = orjson.dumps([self._node, found])
                await lease.run(self._store, ("RPUSH", key, answer), ("EXPIRE", key, ANSWERS_S))
            except StoreError as error:
                log.warning("survey_unanswered", what=what, error=str(error))

    async def ask(self, what: str, **about: Any) -> Answers:
        """Return what all gateways answer, this one included.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        now = time.time()
        known = await lease.gateways(self._store)
        others = {name for name, at in known.items() if now - at < HERE_S and name != self._node}
        found: dict[str, Any] = {}
        if others:
            id = secrets.token_hex(8)
            question = {"op": OP, "from": self._node, "id": id, "what": what, "about": about}
            await self._store.publish(self._store.keys.control_channel, orjson.dumps(question))
        found[self._node] = await self._answer(what, about)
        if others:
            await self._collect(self._key(id), others, found)
        return Answers(found, tuple(sorted(others - found.keys())))

    async def _collect(self, key: str, others: set[str], found: dict[str, Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        try:
            while not others <= found.keys() and (left_s := deadline - time.monotonic()) > 0:
                reply = await cast(Any, self._store.redis).blpop([key], timeout=max(0.01, left_s))
                if reply is None:
                    return
                node, answer = orjson.loads(reply[1])
                found[node] = answer
        except (RedisError, OSError) as error:
            raise StoreError(str(error) or type(error).__name__) from error
