"""Which versions of a topic open tabs have acknowledged, asked of all gateways when somebody wants to know.

Acks live in the gateways' memory, and nothing is written for them: the question goes over the control channel, and each
gateway puts its answer into one hash that ends by itself. Who does not answer in time is counted as silent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError

from gateway.hub.hub import Hub, LiveTopic
from sync.store.store import Store, StoreError

OP = "acks"
"""The `op` of such a question on the control channel."""

ANSWER_S = 0.6
"""How long all gateways together have to answer."""

POLL_S = 0.02
KEEP_S = 5
QUESTIONS_MAX = 100
"""Questions that wait for this gateway's answer; of more, the oldest stay unanswered."""

log = structlog.get_logger()


class Acks:
    """This gateway's answers, and its questions. `run` is a task of the node's."""

    def __init__(self, store: Store, hub: Hub, name: str) -> None:
        """Answer as the gateway `name`."""
        self._store = store
        self._hub = hub
        self._name = name
        self._asked: list[tuple[str, str]] = []
        self._wake = asyncio.Event()

    def _key(self, question: str) -> str:
        return self._store.keys.head(f"acks:{question}")

    def heard(self, payload: bytes) -> None:
        """Take what came over the control channel, if it is such a question."""
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        if isinstance(value, dict) and value.get("op") == OP:
            topic, question = value.get("topic"), value.get("id")
            if isinstance(topic, str) and isinstance(question, str):
                self._asked = [*self._asked[1 - QUESTIONS_MAX :], (topic, question)]
                self._wake.set()

    async def run(self) -> None:
        """Answer what is asked, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, []
            for topic, question in asked:
                answer = orjson.dumps(summary(self._hub.topic(topic)))
                pipeline = self._store.redis.pipeline(transaction=False)
                pipeline.hset(self._key(question), self._name, answer)
                pipeline.expire(self._key(question), KEEP_S)
                try:
                    async with pipeline:
                        await pipeline.execute()
                except (RedisError, OSError) as error:
                    log.warning("acks_unanswered", topic=topic, error=str(error))

    async def ask(self, topic: str) -> dict[str, Any]:
        """Return what the tabs of a topic have acknowledged, across all gateways that answer within ANSWER_S.

        sessions: tabs that have it open. acked_min, acked_max: the versions that they show, where any has said so.
        unacked: tabs that have not said so of the newest version (of a crowd only a share is asked to). nacked: those
        that could not use it. gateways: how many answered; silent: how many did not.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        question = secrets.token_hex(8)
        redis: Any = self._store.redis
        until = time.monotonic() + ANSWER_S
        try:
            heard = await self._store.publish(
                self._store.keys.control_channel, orjson.dumps({"op": OP, "topic": topic, "id": question})
            )
            answers: dict[bytes, bytes] = {}
            while len(answers) < heard and time.monotonic() < until:
                await asyncio.sleep(POLL_S)
                answers = await redis.hgetall(self._key(question))
        except (RedisError, OSError) as error:
            raise StoreError(f"acks of {topic}: {error}") from error
        return together([orjson.loads(answer) for answer in answers.values()], max(0, heard - len(answers)))


def summary(live: LiveTopic | None) -> dict[str, int]:
    """Return one gateway's part of the answer; versions that nobody has acknowledged are left out."""
    if live is None:
        return {"sessions": 0, "unacked": 0, "nacked": 0}
    # Who said on subscribing that it holds the newest is not asked to acknowledge it again.
    shown = [max(tab.acked, tab.held if tab.sent == tab.held else 0) for tab in live.ring]
    said = [version for version in shown if version]
    counts = {
        "sessions": len(shown),
        "unacked": sum(version < live.version for version in shown),
        "nacked": sum(tab.nacked == live.version > tab.acked for tab in live.ring),
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
