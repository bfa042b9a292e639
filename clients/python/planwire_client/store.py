"""Publishing straight to the store: the gateways' own commit script, run by this process. Needs the extra `store`.

commit.lua is a copy of the server's, held equal by a test. What the gateway checks before it commits is checked here.
Merge patches are left to gateways: tabs get whole states, which are at most 32 KiB.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, cast

import orjson

from planwire_client.change import Answers, Outcome, Publish, Published, Rejected, Send, Trouble, Verdict, check, encode
from planwire_client.errors import PublishRefused

try:
    import redis
    import redis.asyncio
except ImportError as error:  # pragma: no cover - told to people who left the extra out
    raise ImportError(
        "publishing straight to the store needs the extra: pip install 'planwire-client[store]'"
    ) from error

COMMIT_LUA = resources.files("planwire_client").joinpath("commit.lua").read_text("utf-8")
COMMIT_SHA = hashlib.sha1(COMMIT_LUA.encode(), usedforsecurity=False).hexdigest()

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0

Command = list[bytes | str | int]


def options() -> dict[str, Any]:
    """Return how a connection behaves: it gives up soon, since a call is repeated by its event id, not by redis-py."""
    return {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}


class Batch:
    """One round trip: the commands of those items that may be sent, and where the others' refusals go. Pure."""

    def __init__(self, items: Sequence[Publish], source: str, now: float) -> None:
        self._items = items
        self._refused: dict[int, Rejected] = {}
        self.commands: list[Command] = []
        received_at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
        for index, item in enumerate(items):
            try:
                self.commands.append(_command(item, source, received_at.replace("+00:00", "Z")))
            except PublishRefused as refusal:
                self._refused[index] = Rejected(item.topic, refusal.code, refusal.detail)

    def answers(self, replies: Sequence[object]) -> Answers:
        """Return every item's outcome, given the replies to the commands."""
        left = iter(replies)
        return Answers(
            [self._refused.get(index) or _outcome(item, next(left)) for index, item in enumerate(self._items)]
        )


def _command(item: Publish, source: str, received_at: str) -> Command:
    check(item)
    state = encode("state", item.state)
    private = b"" if item.private is None else encode("private", item.private)
    order = f"{item.order:020d}" if isinstance(item.order, int) else item.order or ""
    cause = {"source": source, "event_id": item.event_id, "received_at": received_at, **(item.cause or {})}
    slot = f"pw:{{{item.topic}}}"
    return [
        "EVALSHA",
        COMMIT_SHA,
        3,
        f"{slot}:snap",
        f"{slot}:log",
        f"{slot}:seen",
        "PUBLISH",
        slot,
        state,
        private,
        item.event_id or "",
        order,
        "" if item.if_version is None else str(item.if_version),
        orjson.dumps(cause),
        "",
    ]


def _outcome(item: Publish, reply: object) -> Outcome:
    if isinstance(reply, Exception):
        return Rejected(item.topic, "store_unavailable", str(reply))
    verdict, version = cast("tuple[bytes | str, bytes | str]", reply)
    text = verdict.decode() if isinstance(verdict, bytes) else verdict
    return Published(item.topic, Verdict(text), int(version), item.event_id or "")


def _is_forgotten(replies: Sequence[object]) -> bool:
    """Whether the store has been restarted since, and no longer knows the script.

    What did not run is a refusal for now, and is sent again by `deliver`, which knows what must not follow what.
    """
    return any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies)


class StoreTransport:
    """A blocking connection pool to the store. `source`: what causes say it came from."""

    def __init__(self, client: redis.Redis, source: str = "backend") -> None:
        self._redis = client
        self._source = source
        self._is_loaded = False

    def send(self, step: Send, now: float) -> Answers | Trouble:
        """Return the script's verdicts, or that the store could not be asked."""
        batch = Batch(step.items, self._source, now)
        try:
            if not self._is_loaded:
                self._redis.script_load(COMMIT_LUA)
                self._is_loaded = True
            replies = self._run(batch.commands)
        except (redis.exceptions.RedisError, OSError) as error:
            return Trouble(f"store: {error}")
        self._is_loaded = not _is_forgotten(replies)
        return batch.answers(replies)

    def _run(self, commands: Sequence[Command]) -> list[object]:
        if not commands:
            return []
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return cast(list[object], pipeline.execute(raise_on_error=False))

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()


class AsyncStoreTransport:
    """The same for asyncio."""

    def __init__(self, client: redis.asyncio.Redis, source: str = "backend") -> None:
        self._redis = client
        self._source = source
        self._is_loaded = False

    async def send(self, step: Send, now: float) -> Answers | Trouble:
        """Return the script's verdicts, or that the store could not be asked."""
        batch = Batch(step.items, self._source, now)
        try:
            if not self._is_loaded:
                await cast(Any, self._redis.script_load(COMMIT_LUA))
                self._is_loaded = True
            replies = await self._run(batch.commands)
        except (redis.exceptions.RedisError, OSError) as error:
            return Trouble(f"store: {error}")
        self._is_loaded = not _is_forgotten(replies)
        return batch.answers(replies)

    async def _run(self, commands: Sequence[Command]) -> list[object]:
        if not commands:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return cast(list[object], await pipeline.execute(raise_on_error=False))

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
