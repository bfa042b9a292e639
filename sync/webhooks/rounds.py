"""What endpoints are told, and when: a worker compares what the store has with what each endpoint was told last.

A tenant that is about to change is armed (`sync.store.arming`). `look` finds the endpoints that are behind and puts the
tenant into their queues. `deliver` sends an endpoint the newest entitlements, and the thresholds that were reached, and
notes both in the tenant's slot. So nothing depends on a message that is kept somewhere: after a crash the comparison is
made again, and an endpoint that was away is told of the newest version only. Each endpoint has its own queue and its
own tasks, so one that is slow or down does not delay the others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import structlog

from planwire_client.core.commit import VERSION_FIELDS, version_of
from planwire_client.core.topic import TENANT_KIND, Topic, TopicError
from sync.core.webhook_endpoints import Endpoint
from sync.process.supervisor import Supervisor
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline, Script, run_commands, run_script
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.isolation import ATTEMPTS_MAX, Isolation
from sync.store.store import Store
from sync.webhooks.messages import Message, changed, reached
from sync.webhooks.sender import Sender, UndeliveredError

PAUSES_S = (5, 60, 600, 3_600, 14_400, 43_200, 86_400)
"""The pauses after failed attempts, seconds. Then the message is parked, and tried once at each further change."""

AT_ONCE = 4
"""Tenants that one endpoint is told of at once."""

POLL_S = 0.2
"""Mean interval at which an idle loop polls for work."""

LOOKS = 100
"""Armed tenants that are looked at together."""

VERSIONS_KEPT = 200

TURN_S = 30.0
"""After this time the rest of a tenant's messages waits for the next turn, so that the claim does not end."""

_MARK = Script.load(__package__, "webhook_mark")
_SINCE = Script.load(__package__, "webhook_since")

_log = structlog.get_logger("sync.webhooks")


class _Told(NamedTuple):
    """What an endpoint was told of a tenant: the version, and the threshold's id; those of `since` if nothing was."""

    version: int
    reached: tuple[int, int]


class Rounds:
    """The outgoing webhooks of one worker."""

    def __init__(self, store: Store, endpoints: Sequence[Endpoint], sender: Sender) -> None:
        """Tell `endpoints` of the tenants in `store`."""
        self._store = store
        self._endpoints = endpoints
        self._sender = sender
        self._since: Mapping[str, int] = {}
        self._queues = {one.name: DelayedQueue(store, store.keys.webhooks(f"to:{one.name}")) for one in endpoints}

    def loops(self, supervisor: Supervisor, isolation: Isolation) -> dict[str, Coroutine[Any, Any, None]]:
        """Return the loops of a worker, by name; none without endpoints."""
        loops: dict[str, Coroutine[Any, Any, None]] = {}
        for name in ("soon", "late") if self._endpoints else ():
            queue = DelayedQueue(self._store, self._store.keys.webhooks(name))
            loops[f"webhooks {name}"] = supervisor.every(f"webhooks {name}", POLL_S, partial(self.look, queue))
        for endpoint in self._endpoints:
            name, queue = f"webhooks:{endpoint.name}", self._queues[endpoint.name]
            work = partial(isolation.work, name, queue, partial(self.deliver, endpoint))
            for number in range(AT_ONCE):
                pause_s = None if number else POLL_S
                loops[f"{name} {number}"] = supervisor.loop(name, queue, work, batch=1, pause_s=pause_s)
        return loops

    async def look(self, queue: DelayedQueue) -> bool:
        """Put the armed tenants that are due into the queues of the endpoints that are behind.

        Return whether there may be more. A tenant whose data cannot be read is looked at again when its claim ends.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if not self._since:
            await self._begin()
        claimed = await queue.claim(LOOKS)
        if not claimed:
            return False
        keys, batch = self._store.keys, CommandPipeline(self._store)
        known = [due for due in claimed if _is_tenant(due)]
        for due in known:
            batch.command("HMGET", keys.snap(due.topic), *VERSION_FIELDS, "erased")
            batch.command("HGETALL", keys.delivered(due.topic))
            batch.command("XREVRANGE", self._reached(due.topic), "+", "-", "COUNT", 1)
        replies = await batch.attempt()
        behind: dict[str, list[str | bytes]] = {name: [] for name in self._queues}
        done = [due for due in claimed if not _is_tenant(due)]
        after = CommandPipeline(self._store)
        for due, *found in zip(known, replies[::3], replies[1::3], replies[2::3], strict=True):
            if error := next((one for one in found if isinstance(one, Exception)), None):
                _log.error("webhook_not_armed", topic=due.topic, error=str(error))
                continue
            done.append(due)
            (*version, erased), told, newest = found
            if erased is not None:
                self._forget(after, due.topic)
                continue
            for name, topics in behind.items():
                last = self._told(name, told.get(name.encode()), told.get(f"{name}:reached".encode()))
                is_reached = bool(newest) and _entry(newest[0][0]) > last.reached
                if version_of(*version) > last.version or is_reached:
                    topics.append(due.topic)
        for name, topics in behind.items():
            self._queues[name].request(after, topics)
        await after.run()
        await asyncio.gather(*(queue.ack(due) for due in done))
        return len(claimed) == LOOKS

    async def deliver(self, endpoint: Endpoint, due: Due) -> None:
        """Tell an endpoint what it does not know of a tenant, and end the claim.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        queue, name = self._queues[endpoint.name], endpoint.name
        until = time.monotonic() + TURN_S
        async for message, field, value in self._messages(name, due.topic):
            try:
                await self._sender.send(endpoint, message)
            except UndeliveredError as error:
                await self._failed(endpoint, due, message, error)
                return
            keys = self._store.keys
            await run_script(self._store, _MARK, (keys.snap(due.topic), keys.delivered(due.topic)), field, value)
            await self._count(name, message.type, "delivered")
            if time.monotonic() > until:
                await queue.reschedule(due)
                return
        await queue.ack(due)

    async def _messages(self, name: str, topic: str) -> AsyncIterator[tuple[Message, str, str]]:
        """Yield what an endpoint does not know of a tenant, in order: (message, field of the mark, value)."""
        if not self._since:
            await self._begin()
        keys = self._store.keys
        marks = (name, f"{name}:reached")
        fields, told = await run_commands(
            self._store,
            ("HMGET", keys.snap(topic), *VERSION_FIELDS, "state", "erased"),
            ("HMGET", keys.delivered(topic), *marks),
        )
        *stored, state, erased = fields
        if erased is not None:
            return
        last, version = self._told(name, *told), version_of(*stored)
        if version > last.version:
            previous = 0 if told[0] is None else last.version
            before = await self._state_of(topic, previous) if previous else None
            yield changed(topic, version, state or b"null", previous, before), marks[0], str(version)
        first = f"({last.reached[0]}-{last.reached[1]}"
        (entries,) = await run_commands(self._store, ("XRANGE", self._reached(topic), first, "+"))
        for entry, values in entries:
            yield reached(topic, entry.decode(), values), marks[1], entry.decode()

    async def _state_of(self, topic: str, version: int) -> bytes | None:
        """Return the public state of an earlier version; None if the history does not have it any more."""
        for entry in await self._store.log(topic, VERSIONS_KEPT):
            if entry.version == version:
                return entry.state
        return None

    async def _failed(self, endpoint: Endpoint, due: Due, message: Message, error: UndeliveredError) -> None:
        queue, is_last = self._queues[endpoint.name], error.is_final or due.tries >= ATTEMPTS_MAX
        outcome = "given_up" if is_last else "failed"
        _log.warning(f"webhook_{outcome}", endpoint=endpoint.name, type=message.type, item=due.id, reason=str(error))
        await self._count(endpoint.name, message.type, outcome)
        if is_last:
            await queue.park(due, f"{message.type}: {error}")
            return
        pause_s = max(PAUSES_S[max(due.tries, 1) - 1], min(error.retry_after_s, PAUSES_S[-1]))
        await queue.fail(due, pause_s * random.uniform(1, 1.1))  # noqa: S311 - spreads, guards nothing

    async def _count(self, name: str, kind: str, outcome: str) -> None:
        field = counters.field("webhook_messages", endpoint=name, type=kind, outcome=outcome)
        await run_commands(self._store, ("HINCRBY", self._store.keys.counters, field, 1))

    async def _begin(self) -> None:
        """Note since when each endpoint is told of changes: what was before is not news."""
        found = await run_script(self._store, _SINCE, (self._store.keys.webhooks("since"),), *self._queues)
        self._since = {name.decode(): int(since) for name, since in zip(found[::2], found[1::2], strict=True)}

    def _told(self, name: str, version: bytes | None, entry: bytes | None) -> _Told:
        since = self._since[name]
        return _Told(int(version or since), _entry(entry) if entry else (since // 1000, 0))

    def _forget(self, batch: CommandPipeline, topic: str) -> None:
        """Add to `batch` the removal of everything that an erased tenant left here; see `services.tenants.erase`."""
        for name in self._since:
            DelayedQueue(self._store, self._store.keys.webhooks(f"to:{name}")).cancel(batch, topic)
        batch.command("DEL", self._store.keys.delivered(topic))

    def _reached(self, topic: str) -> str:
        return self._store.keys.usage(topic, "crossings")


@asynccontextmanager
async def open_rounds(store: Store, endpoints: Sequence[Endpoint]) -> AsyncIterator[Rounds]:
    """Yield the outgoing webhooks to `endpoints`."""
    sender = Sender()
    try:
        yield Rounds(store, endpoints, sender)
    finally:
        await sender.aclose()


def _entry(id: bytes) -> tuple[int, int]:
    ms, _, number = id.partition(b"-")
    return int(ms), int(number or 0)


def _is_tenant(due: Due) -> bool:
    try:
        return Topic.parse(due.topic).kind == TENANT_KIND
    except TopicError:
        return False
