"""The queue of tenants in the shadow of another entitlement system: switch them where due, ask that system, compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from planwire_client.core.topic import Topic
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import checked_topic
from sync.core.errors import SyncError
from sync.process.supervisor import backoff_s
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import Due

QUEUE = "shadow"
"""The queues' name, for logs and the metric."""

COMPARE_EVERY_S = 86_400
"""Time between two comparisons of a tenant that does not change."""

MAX_WAIT_S = 30.0
"""Maximum wait of a claimed tenant for the rate limit."""

RETRY_MAX_S = 300.0
"""Maximum pause before a system that fails is asked again about a tenant."""

_log = structlog.get_logger("sync.shadow")


class OtherSystem(Protocol):
    """The entitlement system that exists (`sync.source.shadow`)."""

    def serves(self, topic: Topic) -> bool:
        """Return whether the system is asked about a tenant."""

    async def ask(self, topic: Topic, max_wait_s: float) -> Mapping[str, Any] | None:
        """Return the system's answer about a tenant; None if it does not know it."""


class ShadowQueue:
    """The work on the queue of one environment."""

    def __init__(
        self, services: BillingServices, environment: str, other: OtherSystem | None, failure: type[SyncError]
    ) -> None:
        """Compare tenants with `other`; None: with the answers that were posted. `failure`: what `other` raises."""
        self._services = services
        self._environment = environment
        self._other = other
        self._failure = failure
        self._failures: dict[str, int] = {}
        self.queue = services.environment(environment).shadow.queue

    async def handle(self, due: Due) -> None:
        """Switch a tenant if it is due, compare it, and end the claim.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        services, environment = self._services, self._environment
        topic = checked_topic(environment, due.topic)
        await services.shadowing.bring(environment, due.topic)
        if self._other is None or not self._other.serves(topic):
            await services.shadowing.recheck(environment, due.topic)
            await self.queue.ack(due)
            return
        asked_us = services.now_us
        try:
            answer = await self._other.ask(topic, MAX_WAIT_S)
        except self._failure as error:
            failures = self._failures[due.topic] = self._failures.get(due.topic, 0) + 1
            _log.warning("shadow_unanswered", topic=due.topic, failures=failures, reason=str(error))
            await self._count("failed")
            await self.queue.reschedule(due, min(backoff_s(min(failures, 20)), RETRY_MAX_S))
            return
        self._failures.pop(due.topic, None)
        if answer is None:
            await self._count("absent")
        else:
            await services.shadowing.answered(environment, due.topic, answer, asked_us, "fetched")
        await self.queue.ack(due, services.now_us + COMPARE_EVERY_S * 1_000_000)

    async def _count(self, result: str) -> None:
        batch = CommandPipeline(self._services.store)
        self._services.shadowing.count_unanswered(batch, self._environment, result)
        await batch.run()
