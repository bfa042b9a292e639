"""Fills topics without state from the application's backend, and repairs topics that differ from it.

Gateways request topics that have readers. One worker claims each topic, so the backend gets one request for it. A
commit names the version that it replaces, so a publish in between wins. Tenants that billing computes are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import orjson
import structlog

from planwire_client.core.topic import TENANT_KIND, UNPUBLISHED_KINDS, Topic
from sync.billing.providers.rate_limit import RedisRateLimiter
from sync.process.supervisor import Supervisor
from sync.settings import SyncSettings
from sync.source.backend import Backend, SourceError
from sync.source.client import Source
from sync.store.command_pipeline import run_commands
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.isolation import Isolation
from sync.store.models import Change, Snapshot, StoreError, Verdict
from sync.store.store import Store

QUEUE = "hydration"
"""The queues' name, for logs and the metric."""

ABSENT_S = 10.0
"""Time for which the source's 404 counts; until then there is no new request for the topic."""

LEASE_S = 60.0
"""Length of a claim; the wait for the rate limit, an answer and a commit fit into it."""

MAX_WAIT_S = 30.0
"""Maximum wait of a claimed topic for the rate limit."""

ASKED_MAX_WAIT_S = 5.0
"""Maximum wait for the rate limit while a caller waits for the answer."""

CONCURRENCY = 8
"""Topics that one worker handles at once."""

POLL_S = 0.1
"""Mean time between two checks for requests; a topic's first reader waits for it."""

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 30.0
COMPARISONS_MAX = 10
"""Attempts of a comparison whose source fails. For a topic without state, attempts go on while it has readers."""

TRIES = 3
"""Attempts of a comparison that conflicts with publishes."""

_log = structlog.get_logger("sync.source.hydration")


class Found(NamedTuple):
    """The result of a request to the source. `version`: the topic's version after it.

    Outcomes: applied, unchanged and billed are the commit's verdict. absent: the source has no state; the stored state
    stays. stale: the stored state is newer by its order. conflict: every attempt met a publish in between.
    """

    outcome: str
    version: int


class Hydration:
    """Hydrates topics from one source. All tasks belong to `run`."""

    def __init__(self, store: Store, source: Source, is_billed: Callable[[Topic], bool] = lambda topic: False) -> None:
        """Fill topics of `store` from `source`, except those for which `is_billed` is True: billing computes them."""
        self._store = store
        self._source = source
        self._is_billed = is_billed
        self._wanted = DelayedQueue(store, store.keys.hydrate, LEASE_S)
        self._compared = DelayedQueue(store, store.keys.compare, LEASE_S)
        self._failures: dict[str, int] = {}

    def serves(self, topic: str) -> bool:
        """Return whether the source computes `topic`."""
        parsed = Topic.parse(topic)
        return parsed.kind not in UNPUBLISHED_KINDS and not self._is_billed(parsed)

    async def compare(self, topic: str) -> None:
        """Queue `topic` for a worker to reconcile.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await self._store.request(self._store.keys.compare, [topic])

    async def run(self, supervisor: Supervisor, isolation: Isolation) -> None:
        """Handle requests until `supervisor` stops. While the store is unreachable, retry."""
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:

            async def step() -> bool:
                claimed = 0
                for queue in (self._wanted, self._compared):
                    found = await queue.claim(CONCURRENCY - len(running)) if len(running) < CONCURRENCY else []
                    for due in found:
                        task = group.create_task(self._work(isolation, queue, due), name=f"source {due.topic}")
                        running.add(task)
                        task.add_done_callback(running.discard)
                    claimed += len(found)
                return bool(claimed)

            pause_s = POLL_S * random.uniform(0.5, 1.5)  # noqa: S311 - spreads workers, guards nothing
            await supervisor.every(QUEUE, pause_s, step)

    async def _work(self, isolation: Isolation, queue: DelayedQueue, due: Due) -> None:
        """Do one claimed topic's work, and end the claim. If the store is unreachable, the lease expires instead."""

        async def handle(due: Due) -> None:
            try:
                await (self._hydrate(due.topic) if queue is self._wanted else self._compare(due.topic))
            except SourceError as error:
                failures = self._failures[due.topic] = self._failures.get(due.topic, 0) + 1
                _log.warning("source_failed", topic=due.topic, failures=failures, reason=str(error))
                is_compared = queue is self._compared and failures < COMPARISONS_MAX
                if is_compared or (queue is self._wanted and await self._store.is_watched(due.topic)):
                    pause_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(failures - 1, 10))
                    await queue.reschedule(due, pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
                    return
            self._failures.pop(due.topic, None)
            await queue.ack(due)

        with contextlib.suppress(StoreError):
            await isolation.work(QUEUE, queue, handle, due)

    async def _hydrate(self, topic: str) -> None:
        """Fill a topic without state. Do nothing if it has one already, or if the source recently had none."""
        if not self.serves(topic):
            # End the readers' wait: this topic's state comes from billing, not from the source.
            await self._store.remember_absent(topic, ABSENT_S)
            return
        (version,) = await self._store.versions([topic])
        if version or await self._store.is_absent(topic):
            return
        # Over version 0 only: a publish in between is newer than the source's answer.
        found = await self._ask(topic, Snapshot(topic, 0, b"null", b"", b""), b"", "hydrate", MAX_WAIT_S)
        _log.info("hydrated", topic=topic, outcome=found.outcome, version=found.version)

    async def _compare(self, topic: str) -> None:
        if not self.serves(topic):
            return
        found = await self.reconcile(topic, "wanted", MAX_WAIT_S, background=True)
        _log.info("compared", topic=topic, outcome=found.outcome, version=found.version)

    async def reconcile(self, topic: str, why: str, max_wait_s: float, *, background: bool = False) -> Found:
        """Compare `topic` with the source, repair it if it differs, and return the result.

        Args:
            topic: the topic.
            why: the event type in the cause of a repair.
            max_wait_s: maximum wait for the rate limit.
            background: leave a part of the rate limit to other requests.

        Raises:
            SourceError: the source is unreachable, or its answer cannot be used; nothing was changed.
            StoreError: the store is unreachable or failing.
        """
        found = Found("conflict", 0)
        for _ in range(TRIES):
            before = await self._store.read(topic)
            # Read after the snapshot: an older order could equal the answer's, and a stale answer would be committed.
            (order,) = await run_commands(self._store, ("HGET", self._store.keys.snap(topic), "order"))
            found = await self._ask(topic, before, order or b"", why, max_wait_s, background=background)
            if found.outcome != "conflict":
                break
        return found

    async def _ask(
        self, topic: str, before: Snapshot, order: bytes, why: str, max_wait_s: float, *, background: bool = False
    ) -> Found:
        """Ask the source, and commit its answer if the topic is still as in `before`, which has `order`."""
        answer = await self._source.ask(topic, max_wait_s, background=background)
        if answer is None:
            if before.version:
                _log.warning("source_has_none", topic=topic, version=before.version)
            else:
                await self._store.remember_absent(topic, ABSENT_S)
            return Found("absent", before.version)
        # With the stored order, send none: the answer differs but is not newer, so it would be `stale`.
        token = "" if answer.order.encode() == order else answer.order
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        cause = orjson.dumps({"source": "source", "event_type": why, "received_at": now})
        change = Change(
            topic, answer.state, answer.private, order=token, if_version=before.version, cause=cause, previous=before
        )
        committed = await self._store.commit(change)
        await self._store.wait_durable()
        if committed.verdict is Verdict.BILLED:
            _log.warning("source_not_taken", topic=topic, reason="billing computes this topic")
        return Found(committed.verdict.value, committed.version)

    async def aclose(self) -> None:
        """Close the connections to the source, but not the store."""
        await self._source.aclose()


def hydration(
    store: Store, settings: SyncSettings, is_shadowing: Callable[[], bool] = lambda: False
) -> Hydration | None:
    """Return the hydration for `settings`, or None if they have no source.

    Args:
        is_shadowing: whether billing runs in the shadow of the source, which then goes on to fill tenants' topics.
    """
    if not settings.source_url:
        return None
    limiter = RedisRateLimiter(store, "source", "all", settings.source_rate_per_s)
    backend = Backend(timeout_s=settings.source_timeout_s, rate_limiter=limiter)
    source = Source(settings.source_url, settings.source_secret.get_secret_value().encode(), backend)
    billed = settings.billed_environments

    def is_billed(topic: Topic) -> bool:
        return topic.kind == TENANT_KIND and topic.env in billed and not is_shadowing()

    return Hydration(store, source, is_billed)
