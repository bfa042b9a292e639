"""How questions and answers look in the store, by kind: a message of the control channel, and the key of the answers.

Both formats are those of the builds that may run beside this one. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sync.store.keys import Keys

Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question to all gateways.

    Attributes:
        id: names the key of its answers.
        what: the kind of answer that is wanted.
        about: what belongs to it, as JSON values.
        sender: the gateway that asks; "" where it answers its own question like every other.
    """

    id: str
    what: str
    about: Mapping[str, Any]
    sender: str = ""


class AcksFormat:
    """What a topic's tabs have acknowledged: one hash per question, a field per gateway. The asker answers as well."""

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
    """What a console asks: one list per question. The asker's own answer does not travel."""

    op = "ask"
    log_name = "survey"

    def encode(self, question: Question) -> dict[str, Any]:
        """Return the question as a control message."""
        return {
            "op": self.op,
            "from": question.sender,
            "id": question.id,
            "what": question.what,
            "about": dict(question.about),
        }

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


QuestionFormat = AcksFormat | ConsoleFormat
