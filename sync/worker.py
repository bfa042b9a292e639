"""`python -m sync.worker` does the background work: inbox retries, timers, catalog edits, comparisons, catch-up.

Any number of workers can share the store: claims and leases divide the work, and every step is idempotent.
Exit status: 0 after SIGINT, SIGTERM or SIGHUP; 2, with one line on standard error, if it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from planwire_client.core.topic import TENANT_KIND, Topic
from sync import bootstrap
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.background.catalog_sweeps import CatalogSweeps
from sync.billing.services.background.catch_up import QUEUE, CatchUp
from sync.billing.services.events import checkouts, event_queue
from sync.billing.services.events.event_queue import EventQueue
from sync.billing.services.shadow.queues import QUEUE as SHADOW, ShadowQueues
from sync.billing.services.tenants.comparisons import RECONCILE, REPEATED, SEARCH, Comparisons
from sync.billing.services.tenants.lost_tails import LostTails
from sync.billing.services.tenants.provider_queries import BACKGROUND_MAX_WAIT_S
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import AUDIT_EVERY_S, checked_topic
from sync.core.errors import SyncError
from sync.process import logs, parent_watch
from sync.process.environment import ignored_names, mixed_versions
from sync.process.supervisor import BATCH, Supervisor, on_stop_signal
from sync.settings import SettingsError, SyncSettings
from sync.source.backend import SourceError
from sync.source.hydration import Hydration, hydration
from sync.source.shadow import ShadowSource, shadow_source
from sync.store.checks.inspection import Inspection, check_start
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.isolation import ItemT, WorkQueue, is_away
from sync.store.redis.connect import open_store
from sync.usage.refreshes import UsageRefreshes
from sync.usage.wiring import usage_calls
from sync.webhooks.rounds import Rounds, open_rounds

POLL_S = 0.5
"""Mean interval at which an idle loop polls for work."""

AWAITED_POLL_S, AWAITED_AT_ONCE = 0.2, 3
"""Polling interval of the queues that pages wait for, and how many of their items are worked on at once."""

CATCH_UP_S = 60.0
"""Interval at which the provider's list of events is read."""

ALIVE_S = 5.0
"""Interval at which the alive file is touched. A liveness probe should allow several times this."""

_log = structlog.get_logger("sync.worker")


@dataclass(eq=False)
class Worker:
    """The background work of some environments. `run` owns every task.

    Attributes:
        services: billing on one store.
        environments: names.
        poll_s: mean polling interval of an idle loop.
        hydration: fetches topics from the application's backend; None if no backend is set.
        alive_file: touched every ALIVE_S.
        shadow: the entitlement system in whose shadow billing runs; None if none is asked.
        webhooks: tells endpoints of changes; None without endpoints.
        usage: brings up to date what web processes without a catalog show; None without such.
    """

    services: BillingServices
    environments: tuple[str, ...]
    poll_s: float = POLL_S
    hydration: Hydration | None = None
    alive_file: Path | None = None
    shadow: ShadowSource | None = None
    webhooks: Rounds | None = None
    usage: UsageRefreshes | None = None

    def __post_init__(self) -> None:
        self._isolation = self.services.isolation
        self._supervisor = Supervisor(self.poll_s, is_away, self._isolation.count)
        self._compares = Comparisons(self.services, self._supervisor)
        self._sweeps = CatalogSweeps(self.services, self.environments, self._supervisor)

    def stop(self) -> None:
        """Make `run` return after the current items. Other claimed items are released."""
        self._supervisor.stop()

    async def run(self) -> None:
        """Work until `stop`. Retry while the store is unreachable."""
        every = self._supervisor.every
        loops = {"catalog": every("catalog", None, self._sweeps.step)}
        loops[RECONCILE] = self._comparisons(RECONCILE, self._compares.requests)
        loops[REPEATED] = self._comparisons(REPEATED, self._compares.repeated, at_once=1)
        loops["searches"] = self._searches()
        named = self.services.checkouts
        loops[checkouts.QUEUE] = self._checkouts(checkouts.QUEUE, named.queue)
        loops[checkouts.DOUBTFUL_QUEUE] = self._checkouts(checkouts.DOUBTFUL_QUEUE, named.doubtful, at_once=1)
        for environment in self.environments:
            loops[f"inbox {environment}"] = self._inbox(environment)
            loops[f"timers {environment}"] = self._timers(environment)
            shadow = ShadowQueues(self.services, environment, self.shadow, SourceError)
            loops[f"{SHADOW} {environment}"] = shadow.run(self._work)
            if self.services.can_ask(environment):
                loops[f"audits {environment}"] = self._audits(environment)
        askable = [name for name in self.environments if self.services.can_ask(name)]
        loops["lost tails"] = every("lost tails", None, LostTails(self.services, askable).step)
        for provider, environment in self.services.clients:
            loops[f"catch-up {provider} {environment}"] = self._catch_up(provider, environment)
        if self.alive_file is not None:
            loops["alive"] = every("alive", ALIVE_S, partial(_touch_or_log, self.alive_file))
        if self.webhooks is not None:
            loops |= self.webhooks.loops(self._supervisor, self._isolation)
        if self.usage is not None:
            loops["usage"] = self.usage.run(partial(self._work, pause_s=min(self.poll_s, AWAITED_POLL_S)))
        if self.hydration is not None:
            loops["hydration"] = self.hydration.run(self._supervisor, self._isolation)
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                group.create_task(loop, name=name)

    async def _work(
        self,
        name: str,
        queue: WorkQueue[ItemT],
        handle: Callable[[ItemT], Awaitable[object]],
        *,
        batch: int = BATCH,
        pause_s: float | None = None,
        after: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Work on a queue until `stop`. An item that fails stops neither the others nor the worker."""
        work = partial(self._isolation.work, name, queue, handle)
        await self._supervisor.loop(name, queue, work, batch=batch, pause_s=pause_s, after=after)

    async def _inbox(self, environment: str) -> None:
        events = EventQueue(self.services, self.services.ingest, environment)
        await self._work(event_queue.QUEUE, events, events.handle)

    async def _timers(self, environment: str) -> None:
        async def fire(due: Due) -> None:
            checked_topic(environment, due.topic)
            await self.services.wakeup.fire(environment, due)

        await self._work("timers", self.services.environment(environment).timers, fire)

    async def _work_for_pages(
        self,
        name: str,
        queue: WorkQueue[ItemT],
        handle: Callable[[ItemT], Awaitable[object]],
        at_once: int = AWAITED_AT_ONCE,
    ) -> None:
        """Work on a queue that pages wait for: soon, and on several items, so that a slow answer holds up no other."""
        async with asyncio.TaskGroup() as group:
            for number in range(at_once):  # all but the first join when there is much to do
                pause_s = None if number else min(self.poll_s, AWAITED_POLL_S)
                group.create_task(self._work(name, queue, handle, batch=1, pause_s=pause_s))

    async def _comparisons(self, name: str, queue: DelayedQueue, at_once: int = AWAITED_AT_ONCE) -> None:
        """Compare the queued tenants: gateways queue them, and so do events whose provider was unavailable."""
        await self._work_for_pages(name, queue, partial(self._compare, queue), at_once)

    async def _compare(self, queue: DelayedQueue, due: Due) -> None:
        topic = Topic.parse(due.topic)
        if topic.kind == TENANT_KIND and topic.env in self.environments and self.services.can_ask(topic.env):
            await self._compares.compare(topic.env, queue, due)
            return
        # It has no provider, or its environment belongs to another worker.
        if self.hydration is not None and self.hydration.serves(due.topic):
            await self.hydration.compare(due.topic)
        await queue.ack(due)

    async def _checkouts(self, name: str, queue: DelayedQueue, at_once: int = AWAITED_AT_ONCE) -> None:
        """Read the checkouts that waiting pages have named."""
        await self._work_for_pages(name, queue, partial(self.services.checkouts.handle, queue), at_once)

    async def _searches(self) -> None:
        """Search for the tenants whose facts the store has lost."""
        await self._work(SEARCH, self._compares.searches, self._compares.collect, after=self._compares.search)

    async def _audits(self, environment: str) -> None:
        """Compare every tenant with its provider within AUDIT_EVERY_S, evenly spread."""
        known = self.services.environment(environment)
        is_planned = False

        async def plan(topic: str) -> bool:
            batch = CommandPipeline(self.services.store)
            known.plan_audit(batch, topic, self.services.now_us)
            await batch.run()
            return not self._supervisor.stopped.is_set()

        async def plan_once() -> None:
            """Plan audits for the tenants that existed before an API key was set."""
            nonlocal is_planned
            is_planned = is_planned or await known.walk("audits").run("plan", known.topics(), plan)

        async def audit(due: Due) -> None:
            checked_topic(environment, due.topic)
            reconcile = self.services.reconciliation.reconcile
            await reconcile(environment, due.topic, "audit", BACKGROUND_MAX_WAIT_S, background=True, searches=False)
            await known.audits.ack(due, self.services.now_us + AUDIT_EVERY_S * 1_000_000)

        await self._work("audits", known.audits, audit, batch=1, after=plan_once)

    async def _catch_up(self, provider: str, environment: str) -> None:
        """Read the provider's new events at the start and every CATCH_UP_S."""
        client = self.services.clients[provider, environment]
        catch_up = CatchUp(self.services, provider, environment, client)

        async def run() -> None:
            try:
                await catch_up.run()
            except (ProviderUnavailable, ProviderRejected) as error:
                _log.warning("not_caught_up", provider=provider, environment=environment, reason=str(error))
                if isinstance(error, ProviderRejected):
                    await self._isolation.count(QUEUE)

        await self._supervisor.every(f"catch-up {provider} {environment}", CATCH_UP_S, run)


async def _touch_or_log(path: Path) -> None:
    try:
        _touch(path)
    except SettingsError as error:
        _log.warning("alive_file_not_touched", reason=str(error))


def _touch(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        raise SettingsError([f"PLANWIRE_ALIVE_FILE: {path} cannot be written: {error.strerror}"]) from error


async def serve(settings: SyncSettings) -> None:
    """Work until SIGINT, SIGTERM or SIGHUP.

    Raises:
        SyncError: the alive file, the catalog, the store's URL or the store cannot be used, or the embedded store does
            not start.
    """
    if settings.alive_file is not None:
        _touch(settings.alive_file)
    async with contextlib.AsyncExitStack() as stack:
        store = (await stack.enter_async_context(open_store(settings))).store
        services = await bootstrap.build_services(store, settings)
        stack.push_async_callback(services.aclose)
        hydrating = hydration(store, settings, lambda: services.is_shadowing)
        if hydrating is not None:
            stack.push_async_callback(hydrating.aclose)
        shadow = shadow_source(store, settings)
        if shadow is not None:
            stack.push_async_callback(shadow.aclose)
        webhooks = await stack.enter_async_context(open_rounds(store, settings.webhook_endpoints))
        calls = usage_calls(store, services.current_catalog, settings)
        usage = UsageRefreshes(store, settings.environments, calls)
        worker = Worker(
            services, settings.environments, POLL_S, hydrating, settings.alive_file, shadow, webhooks, usage
        )
        on_stop_signal(worker.stop)
        await check_start(store, dev=settings.dev)
        _log.info("worker_started", environments=settings.environments)
        async with asyncio.TaskGroup() as group:
            inspection = group.create_task(Inspection(store, settings.dev).run(), name="inspection")
            await worker.run()
            inspection.cancel()
    _log.info("worker_stopped")


def main(environ: Mapping[str, str]) -> int:
    """Run the worker that `environ` describes; return the exit status."""
    try:
        settings = SyncSettings.from_env(environ)
        logs.configure(settings.log_level, settings.log_format)
        if ignored := ignored_names(environ):
            _log.warning("settings_ignored", names=ignored, reason="this build does not know them")
        if mixed := mixed_versions():
            _log.warning("packages_mixed", installed=mixed, action="install planwire-client in the version of planwire")
        parent_watch.watch(settings.watch_pid)
        asyncio.run(serve(settings))
    except SyncError as error:
        print(f"planwire worker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
