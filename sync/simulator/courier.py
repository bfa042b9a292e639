"""Delivers events to the webhook: signs them, retries them with backoff and jitter, logs each attempt.

First attempts are sent in the order of the events, and before any retry. Like the real provider, it promises no other
order. At most QUEUE_LIMIT deliveries wait.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import httpx2
import orjson
import structlog

from sync.core.instants import text_us
from sync.simulator.paddle import entities, webhooks
from sync.simulator.persistence import Owed
from sync.simulator.world.model import SECOND_US, Event
from sync.simulator.world.turn import NewId

QUEUE_LIMIT = 500
"""Maximum events that wait for delivery; an action that would exceed it is rejected."""

ATTEMPTS_MAX = 60
"""Maximum attempts per event, as in Paddle's live environment."""

PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 60.0
"""The pause after attempt n is min(PAUSE_MAX_S, PAUSE_FIRST_S * 2^(n-1)), times a random factor from 0.5 to 1."""

TIMEOUT_S = 5.0
"""Maximum time for the receiver's answer (Paddle: 5 s)."""

LOG_LENGTH = 500
"""Attempts kept in the log."""

_log = structlog.get_logger("simulator")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    `status` and `outcome` are from the receiver's answer, `error` is set if there was none. `state` is the delivery's
    state after it: delivered, retrying or failed.
    """

    event_id: str
    notification_id: str
    event_type: str
    env: str
    attempt: int
    at: str
    ms: float
    status: int | None
    outcome: str | None
    error: str | None
    state: str


@dataclass(slots=True)
class Delivery:
    """A delivery of an event. `tried` is set after the first attempt, `last` is the newest attempt."""

    event: Event
    notification_id: str
    attempts: int = 0
    last: Attempt | None = None
    tried: asyncio.Event = field(default_factory=asyncio.Event)


class Courier:
    """Delivers to one URL. `secrets`: environment -> its signing secrets. `run` needs its own task."""

    def __init__(
        self,
        webhook_url: str,
        secrets: Mapping[str, Sequence[str]],
        now_us: Callable[[], int],
        new_id: NewId,
        random: Random,
        pause_first_s: float = PAUSE_FIRST_S,
    ) -> None:
        self.webhook_url = webhook_url
        self.log: deque[Attempt] = deque(maxlen=LOG_LENGTH)
        self._secrets = secrets
        self._now_us = now_us
        self._new_id = new_id
        self._random = random
        self._pause_first_s = pause_first_s
        self._fresh: deque[Delivery] = deque()
        self._retries: list[tuple[float, int, Delivery]] = []
        self._underway: Delivery | None = None
        self._order = 0
        self._more = asyncio.Event()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._retries) + (self._underway is not None)

    def prepare(self, events: Iterable[Event]) -> tuple[Delivery, ...]:
        """Return a delivery for each event, not yet sent."""
        return tuple(Delivery(event, self._new_id("ntf", self._now_us())) for event in events)

    def send(self, deliveries: Iterable[Delivery]) -> None:
        """Queue the deliveries for their first attempts, in this order."""
        self._fresh.extend(deliveries)
        self._more.set()

    def restore(self, owed: Iterable[Owed], events: Iterable[Event]) -> None:
        """Queue the deliveries that were not accepted before a restart."""
        known = {event.id: event for event in events}
        self._fresh.extend(
            Delivery(known[owing.event_id], owing.notification_id, owing.attempts)
            for owing in owed
            if owing.event_id in known
        )
        self._more.set()

    def owed(self, coming: Iterable[Delivery] = ()) -> tuple[Owed, ...]:
        """Return all deliveries that are not accepted yet, and `coming`, in the order of their next attempts."""
        underway = () if self._underway is None else (self._underway,)
        retries = (delivery for _, _, delivery in sorted(self._retries, key=lambda retry: retry[:2]))
        waiting = (*underway, *self._fresh, *coming, *retries)
        return tuple(Owed(each.event.id, each.notification_id, each.attempts) for each in waiting)

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with webhooks.client(TIMEOUT_S) as http:
            while True:
                self._underway = await self._next()
                await self._attempt(http, self._underway)
                # Not in a finally: a delivery that was cancelled during its attempt is still owed.
                self._underway = None

    async def _next(self) -> Delivery:
        while True:
            if self._fresh:
                return self._fresh.popleft()
            wait_s = None if not self._retries else self._retries[0][0] - time.monotonic()
            if wait_s is not None and wait_s <= 0:
                return heapq.heappop(self._retries)[2]
            self._more.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._more.wait()
            except TimeoutError:
                continue

    async def _attempt(self, http: httpx2.AsyncClient, delivery: Delivery) -> None:
        event = delivery.event
        body = orjson.dumps(entities.envelope(event, delivery.notification_id))
        at_us = self._now_us()
        started = time.perf_counter()
        answer = await webhooks.post(http, self.webhook_url, body, self._secrets.get(event.env, ()), at_us // SECOND_US)
        ms = round((time.perf_counter() - started) * 1000, 3)
        delivery.attempts += 1
        is_taken = answer.status is not None and 200 <= answer.status < 300
        failed = "failed" if delivery.attempts >= ATTEMPTS_MAX else "retrying"
        delivery.last = Attempt(
            event_id=event.id,
            notification_id=delivery.notification_id,
            event_type=event.type,
            env=event.env,
            attempt=delivery.attempts,
            at=text_us(at_us),
            ms=ms,
            status=answer.status,
            outcome=answer.outcome,
            error=answer.error,
            state="delivered" if is_taken else failed,
        )
        self.log.append(delivery.last)
        if delivery.last.state == "retrying":
            self._order += 1
            longest_s = min(PAUSE_MAX_S, self._pause_first_s * 2.0 ** (delivery.attempts - 1))
            at_s = time.monotonic() + longest_s * (0.5 + self._random.random() / 2)
            heapq.heappush(self._retries, (at_s, self._order, delivery))
        elif delivery.last.state == "failed":
            _log.error("delivery given up", event_id=event.id, event_type=event.type, attempts=delivery.attempts)
        delivery.tried.set()
