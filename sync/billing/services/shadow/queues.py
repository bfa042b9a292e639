"""The queues of the shadow: tenants to switch, and tenants to compare with what the other system answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from planwire_client.core.topic import Topic
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import checked_topic
from sync.core.errors import SyncError
from sync.process.supervisor import backoff_s
from sync.store.delayed_queue import Due

QUEUE, SWITCHES = "shadow", "shadow_switches"
"""The queues' names, for logs and the metric."""

COMPARE_EVERY_S = 86_400
"""Time between two comparisons of a tenant that does not change."""

MAX_WAIT_S = 30.0
"""Maximum wait of a claimed tenant for the rate limit."""

RETRY_MAX_S = 300.0
"""Maximum pause before a system that fails is asked again about a tenant."""

AT_ONCE = 4
"""Tenants compared at once, so that a slow answer holds up no other."""

IDLE_POLL_S = 5.0
"""Polling interval of the queues if there was no shadow at the start; what is left in one may be switched."""

_log = structlog.get_logger("sync.shadow")


class OtherSystem(Protocol):
    """The entitlement system that exists (`sync.source.shadow`)."""

    def serves(self, topic: Topic) -> bool:
        """Return whether the system is asked about a tenant."""

    async def ask(self, topic: Topic, max_wait_s: float) -> Mapping[str, Any] | None:
        """Return the system's answer about a tenant; None if it does not know it."""


class Work(Protocol):
    """Works on a queue until the worker stops (`Worker`)."""

    async def __call__(
        self, name: str, queue: Any, handle: Any, *, batch: int = ..., pause_s: float | None = ...
    ) -> None:
        """Claim the items of `queue`, and call `handle` with each."""


class ShadowQueues:
    """The work on the queues of one environment."""

    def __init__(
        self, services: BillingServices, environment: str, other: OtherSystem | None, failure: type[SyncError]
    ) -> None:
        """Compare tenants with `other`; None: with the answers that were posted. `failure`: what `other` raises."""
        self._services = services
        self._environment = environment
        self._other = other
        self._failure = failure
        self._failures: dict[str, int] = {}
        self._log = services.environment(environment).shadow

    async def run(self, work: Work) -> None:
        """Work on both queues until `work` ends. A switch waits for no answer of the other system."""
        is_on = self._services.is_shadowing
        pause_s = None if is_on else IDLE_POLL_S
        async with asyncio.TaskGroup() as group:
            group.create_task(work(SWITCHES, self._log.switching, self.switch, pause_s=pause_s))
            for _ in range(AT_ONCE if is_on else 1):
                group.create_task(work(QUEUE, self._log.queue, self.compare, batch=1, pause_s=pause_s))

    async def switch(self, due: Due) -> None:
        """Bring a tenant to where the switches want it, and end the claim.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        checked_topic(self._environment, due.topic)
        await self._services.shadow_switches.bring(self._environment, due.topic)
        await self._log.switching.ack(due)

    async def compare(self, due: Due) -> None:
        """Compare a tenant, and end the claim. One that is new is first brought to where the switches want it.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        services, environment, queue = self._services, self._environment, self._log.queue
        topic = checked_topic(environment, due.topic)
        await services.shadow_switches.bring(environment, due.topic)
        if self._other is None or not self._other.serves(topic):
            await services.shadow_comparisons.recheck(environment, due.topic)
            await queue.ack(due)
            return
        asked_us = services.now_us
        try:
            answer = await self._other.ask(topic, MAX_WAIT_S)
        except self._failure as error:
            failures = self._failures[due.topic] = self._failures.get(due.topic, 0) + 1
            _log.warning("shadow_unanswered", topic=due.topic, failures=failures, reason=str(error))
            await services.shadow_comparisons.failed(environment, due.topic, str(error))
            await queue.reschedule(due, min(backoff_s(min(failures, 20)), RETRY_MAX_S))
            return
        self._failures.pop(due.topic, None)
        await services.shadow_comparisons.answered(environment, due.topic, answer, asked_us, "fetched")
        await queue.ack(due, services.now_us + COMPARE_EVERY_S * 1_000_000)
