"""Compares queued tenants with their providers, and searches the providers' lists for tenants that the store has lost.

Browsers cause comparisons, so each tenant has a cool-down. They cause no searches (`store.losses`), which have a queue
of their own: a long list delays no comparison.
"""

from __future__ import annotations

from functools import partial

from planwire_client.core.topic import TENANT_KIND, Topic
from sync.billing.services.tenants.provider_queries import BACKGROUND_MAX_WAIT_S, Found
from sync.billing.services.tenants.reconcile import Report
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import RECONCILE_LEASE_S, reconcile_requests
from sync.process.supervisor import Supervisor
from sync.store import losses
from sync.store.command_pipeline import run_commands
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.isolation import Failure, failure_of

SEARCH_PAUSE_S = 5.0
"""Pause after a pass through a provider's list. What is requested meanwhile shares the next pass."""

RETRY_MIN_S, RETRY_MAX_S = 5.0, 30.0
"""Bounds of the delay before a comparison is retried after its provider was unavailable; a page may wait for it."""

SAME_DOUBLINGS, SAME_S = 2, 60
"""How often comparisons that find no difference double a tenant's pause, and for how long they are remembered."""

RECONCILE, REPEATED, SEARCH = "reconcile", "reconcile_repeated", "search"
"""Names of the queues, for logs and the metric."""


class Comparisons:
    """The work on the queues.

    Attributes:
        requests: the tenants to be compared.
        repeated: of these, those whose pages ask again though the last comparison found no difference. They are
            compared in the background of the rate limit, so that pages that storm hold up no others.
        searches: the tenants to be searched in the providers' lists.
    """

    def __init__(self, services: BillingServices, supervisor: Supervisor) -> None:
        self.requests = reconcile_requests(services.store)
        self.repeated = DelayedQueue(services.store, services.store.keys.repeated, RECONCILE_LEASE_S)
        self.searches = losses.searches(services.store)
        self._services = services
        self._store = services.store
        self._isolation = services.isolation
        self._reconciliation = services.reconciliation
        self._supervisor = supervisor
        self._lost: dict[str, dict[str, Due]] = {}

    async def compare(self, environment: str, queue: DelayedQueue, due: Due) -> None:
        """Compare a tenant, unless that was just done; then it is compared at the end of the cool-down."""
        asked, pause_ms = self._store.keys.asked(due.topic, "state"), int(self._services.comparison_pause_s * 1000)
        (same,) = await run_commands(self._store, ("GET", self._store.keys.asked(due.topic, "same")))
        if same is not None and queue is self.requests:
            await self._store.request(self._store.keys.repeated, [due.topic])
            await queue.ack(due)
            return
        is_first, left_ms = await run_commands(self._store, ("SET", asked, b"1", "NX", "PX", pause_ms), ("PTTL", asked))
        if not is_first:
            await queue.reschedule(due, left_ms / 1000)
            return
        if await self._reconciliation.is_lost(due.topic):
            await losses.search_once(self._store, [due.topic])
            await queue.ack(due)
            return
        reconcile = self._reconciliation.reconcile
        background = queue is self.repeated
        report = await reconcile(
            environment, due.topic, "wanted", BACKGROUND_MAX_WAIT_S, searches=False, background=background
        )
        await self._set_pause(asked, due.topic, report, pause_ms)
        if report.retry_s is None:
            await queue.ack(due)
        else:
            await queue.reschedule(due, min(max(report.retry_s, RETRY_MIN_S), RETRY_MAX_S))

    async def _set_pause(self, asked: str, topic: str, report: Report, pause_ms: int) -> None:
        """Set the pause until the tenant may be compared again: longer if its pages ask again and again."""
        if not report.asked:
            return
        same = self._store.keys.asked(topic, "same")
        count = 0
        if report.drift:
            await run_commands(self._store, ("DEL", same))
        else:
            count, _ = await run_commands(self._store, ("INCR", same), ("EXPIRE", same, SAME_S))
        doublings = min(max(0, int(count) - 1), SAME_DOUBLINGS)
        await run_commands(self._store, ("PEXPIRE", asked, pause_ms * report.asked << doublings))

    async def collect(self, due: Due) -> None:
        """Note a tenant for the next pass, if it still has no subscription and a provider can be asked."""
        topic = Topic.parse(due.topic)
        can_ask = topic.kind == TENANT_KIND and self._services.can_ask(topic.env)
        if can_ask and await self._reconciliation.is_blank(due.topic):
            self._lost.setdefault(topic.env, {})[topic.id] = due
        else:
            await self.searches.ack(due)

    async def search(self) -> None:
        """Rebuild the collected tenants, in one pass through the provider's list."""
        while self._lost:
            environment, tenants = self._lost.popitem()
            if self._supervisor.stopped.is_set():
                for due in tenants.values():
                    await self.searches.reschedule(due)
                continue
            found = await failure_of(self._services.provider_queries.find(environment, set(tenants)))
            for due in tenants.values():
                if isinstance(found, Failure):
                    await self._isolation.failed(SEARCH, self.searches, due, found.error)
                else:
                    rebuild = partial(self._rebuild, environment, found)
                    await self._isolation.attempt(SEARCH, self.searches, rebuild, due)
            await self._supervisor.pause(SEARCH_PAUSE_S)

    async def _rebuild(self, environment: str, found: Found, due: Due) -> None:
        if (answers := found.answers.get(due.topic)) is not None:
            await self._reconciliation.repair(environment, due.topic, "lost", answers)
        if found.is_complete:
            await self.searches.ack(due)
        else:
            await self.searches.reschedule(due, RETRY_MAX_S)
