"""`python -m sync.worker`: what has to happen without a webhook: recovery, timers, catalog edits, reconcile, catch-up.

Any number of workers share the store; a lease decides who does what, and every step may be done twice without harm.
Exit status 0 after SIGINT, SIGTERM or SIGHUP, 2 with one line on standard error where it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from planwire_client.core.topic import TENANT_KIND, Topic
from sync import bootstrap
from sync.billing.domain.outcome import WAITS_CATALOG, WAITS_SOFTWARE
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.catch_up import CatchUp
from sync.billing.services.reconcile import BACKGROUND_PATIENCE_S
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import AUDIT_EVERY_S
from sync.billing.storage.inbox import Record
from sync.billing.storage.reconcile_requests import Wanted
from sync.core.errors import SyncError
from sync.process import environment, logs, parent_watch
from sync.process.distributions import mixed_versions
from sync.process.stop_signals import stop_signals
from sync.settings import SettingsError, SyncSettings
from sync.source.hydration import Hydration, hydration
from sync.store.checks.inspection import Inspection, check_start
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.store import StoreError

POLL_S = 0.5
"""How long a worker with nothing to do waits before it looks again, on average."""

BATCH = 100
"""How many events or timers are claimed at once."""

ATTEMPTS_MAX = 8
"""How often an event is tried that fails in a way nobody foresaw, before it is parked."""

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 300.0
SECOND_SWEEP_S = 5.0
"""After a catalog edit tenants are swept again: by then every process has seen the new file."""

CATCH_UP_S = 60.0
"""How often the provider's list of events is read on."""

ALIVE_S = 5.0
"""How often the alive file is touched; a probe should allow several times that."""

WANTED_AGAIN_S = 30.0
"""When a comparison is tried again whose provider could not be asked."""

_log = structlog.get_logger("sync.worker")


class Worker:
    """The background work of some environments. `run` owns every task."""

    def __init__(
        self,
        services: BillingServices,
        environments: tuple[str, ...],
        *,
        poll_s: float = POLL_S,
        hydration: Hydration | None = None,
        alive_file: Path | None = None,
    ) -> None:
        """Work with `services` for `environments`; an idle task looks again after about `poll_s`.

        `hydration`: who fills topics from the application's backend, if it has been named. `alive_file`: what is
        touched every ALIVE_S.
        """
        self._services = services
        self._hydration = hydration
        self._reconciliation = services.reconciliation
        self._reprojection = services.reprojection
        self._wanted = Wanted(services.store)
        self._environments = environments
        self._poll_s = poll_s
        self._alive_file = alive_file
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Have `run` return once what is under way is done; what was claimed besides is given back."""
        self._stopped.set()

    async def run(self) -> None:
        """Work until `stop`. A store that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._catalog(), name="catalog")
            for environment in self._environments:
                group.create_task(self._inbox(environment), name=f"inbox {environment}")
                group.create_task(self._timers(environment), name=f"timers {environment}")
                if self._reconciliation.can_ask(environment):
                    group.create_task(self._audits(environment), name=f"audits {environment}")
            group.create_task(self._asked_for(), name="reconcile")
            if self._alive_file is not None:
                group.create_task(self._alive(self._alive_file), name="alive")
            if self._hydration is not None:
                group.create_task(self._hydration.run(self._stopped), name="hydration")
            for provider, environment in self._services.clients:
                group.create_task(self._catch_up(provider, environment), name=f"catch-up {provider} {environment}")

    async def _alive(self, path: Path) -> None:
        while not self._stopped.is_set():
            try:
                _touch(path)
            except SettingsError as error:
                _log.warning("alive_file_not_touched", reason=str(error))
            await self._pause(ALIVE_S)

    async def _inbox(self, environment: str) -> None:
        inbox = self._services.environment(environment).inbox
        while not self._stopped.is_set():
            try:
                claimed = await inbox.claim(BATCH)
                for record in claimed:
                    if self._stopped.is_set():
                        await self._services.ingest.postpone(environment, record.event_id, 0)
                    else:
                        await self._resume(record, environment)
            except StoreError as error:
                await self._store_away(error)
                continue
            if len(claimed) < BATCH:
                await self._pause()

    async def _resume(self, record: Record, environment: str) -> None:
        try:
            result = await self._services.ingest.resume(record, environment)
        except StoreError:
            raise
        except Exception as error:
            # An event that fails in a way nobody foresaw must not stop the others; it stays visible and is never lost.
            _log.error("event_failed", event_id=record.event_id, attempts=record.attempts, exc_info=error)
            if record.attempts >= ATTEMPTS_MAX:
                await self._services.ingest.give_up(
                    record, environment, f"failed {record.attempts} times: {error!r}"[:300]
                )
            else:
                delay_s = min(BACKOFF_BASE_S * 2.0**record.attempts, BACKOFF_MAX_S)
                await self._services.ingest.postpone(environment, record.event_id, delay_s)
            return
        _log.info(
            "event_recovered",
            environment=environment,
            event_id=record.event_id,
            outcome=result.outcome,
            attempts=record.attempts,
        )

    async def _timers(self, environment: str) -> None:
        timers = self._services.environment(environment).timers
        while not self._stopped.is_set():
            try:
                claimed = await timers.claim(BATCH)
                for due in claimed:
                    if self._stopped.is_set():
                        await self._give_back(timers, due)
                    else:
                        await self._services.wakeup.fire(environment, due)
            except StoreError as error:
                await self._store_away(error)
                continue
            if len(claimed) < BATCH:
                await self._pause()

    async def _give_back(self, timers: DelayedQueue, due: Due) -> None:
        batch = CommandPipeline(self._services.store)
        timers.settle(batch, due, self._services.now_ns() // 1000)
        await batch.run()

    async def _asked_for(self) -> None:
        """Compare the tenants that somebody wants compared: gateways, and deliveries whose provider was away."""
        while not self._stopped.is_set():
            try:
                claimed = await self._wanted.claim(BATCH)
                await self._compare(claimed)
            except StoreError as error:
                await self._store_away(error)
                continue
            if len(claimed) < BATCH:
                await self._pause()

    async def _compare(self, claimed: Sequence[Due]) -> None:
        lost: dict[str, dict[str, Due]] = {}
        for due in claimed:
            environment = self._environment_of(due.topic)
            if self._stopped.is_set():
                await self._wanted.settle(due, 0)
            elif environment is None or not self._reconciliation.can_ask(environment):
                if self._hydration is not None and self._hydration.serves(due.topic):
                    await self._hydration.compare(due.topic)
                await self._wanted.settle(due)
            elif await self._reconciliation.is_lost(due.topic):
                lost.setdefault(environment, {})[Topic.parse(due.topic).id] = due
            else:
                report = await self._reconciliation.reconcile(environment, due.topic, "wanted", BACKGROUND_PATIENCE_S)
                await self._wanted.settle(due, WANTED_AGAIN_S if report.unasked else None)
        for environment, tenants in lost.items():
            # One pass through the provider's list for all of them.
            complete = await self._reconciliation.search(environment, set(tenants), "lost")
            for due in tenants.values():
                await self._wanted.settle(due, None if complete is not None else WANTED_AGAIN_S)

    def _environment_of(self, topic: str) -> str | None:
        """The environment of a tenant's topic that this worker works for; others have no provider."""
        parsed = Topic.parse(topic)
        return parsed.env if parsed.kind == TENANT_KIND and parsed.env in self._environments else None

    async def _audits(self, environment: str) -> None:
        """Compare every tenant with its provider within AUDIT_EVERY_S, evenly spread."""
        known = self._services.environment(environment)
        planned = False
        while not self._stopped.is_set():
            try:
                if not planned:
                    await self._plan_audits(environment)
                    planned = True
                claimed = await known.audits.claim(1)
                for due in claimed:
                    await self._reconciliation.reconcile(
                        environment, due.topic, "audit", BACKGROUND_PATIENCE_S, background=True
                    )
                    batch = CommandPipeline(self._services.store)
                    known.audits.settle(batch, due, self._services.now_ns() // 1000 + AUDIT_EVERY_S * 1_000_000)
                    await batch.run()
            except StoreError as error:
                await self._store_away(error)
                continue
            if not claimed:
                await self._pause()

    async def _plan_audits(self, environment: str) -> None:
        """Have tenants audited that were there before there was an API key."""
        known = self._services.environment(environment)
        async for topic in known.topics():
            batch = CommandPipeline(self._services.store)
            known.plan_audit(batch, topic, self._services.now_ns() // 1000)
            await batch.run()

    async def _catch_up(self, provider: str, environment: str) -> None:
        """Read on in the provider's events, at the start and every CATCH_UP_S."""
        client = self._services.clients[provider, environment]
        catch_up = CatchUp(
            self._services.store,
            self._services.environment(environment),
            self._services.adapters[provider],
            client,
            self._services.now_ns,
        )
        while not self._stopped.is_set():
            try:
                await catch_up.run()
            except StoreError as error:
                await self._store_away(error)
                continue
            except (ProviderUnavailable, ProviderRejected) as error:
                _log.warning("not_caught_up", provider=provider, environment=environment, reason=str(error))
            await self._pause(CATCH_UP_S)

    async def _catalog(self) -> None:
        """Bring every tenant up to the present catalog: at the start, and whenever the file is edited."""
        waits_on: tuple[str, ...] = (WAITS_CATALOG, WAITS_SOFTWARE)
        seen = self._services.catalog_watcher.current
        sweeps_s = [0.0]
        while not self._stopped.is_set():
            current = self._services.catalog_watcher.current
            if current is not seen:
                seen, sweeps_s, waits_on = current, [0.0, SECOND_SWEEP_S], (WAITS_CATALOG,)
            if not sweeps_s:
                await self._pause()
                continue
            await self._pause(sweeps_s[0])
            try:
                await self._sweep(waits_on)
            except StoreError as error:
                await self._store_away(error)
                continue
            sweeps_s = sweeps_s[1:]

    async def _sweep(self, waits_on: tuple[str, ...]) -> None:
        for name in self._environments:
            for thing in waits_on:
                await self._services.environment(name).inbox.reopen(thing)
            async for topic in self._services.environment(name).topics():
                if self._stopped.is_set():
                    return
                await self._reprojection.reproject(name, topic, "catalog")

    async def _pause(self, seconds: float | None = None) -> None:
        """Wait, but not beyond `stop`; without `seconds`, a time of no pattern, so that workers spread."""
        if seconds is None:
            seconds = self._poll_s * random.uniform(0.5, 1.5)  # noqa: S311 - guards nothing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _store_away(self, error: StoreError) -> None:
        _log.warning("store_away", error=str(error))
        await self._pause()


def _touch(path: Path) -> None:
    """Set the file's time to now; make it where it is missing.

    Raises:
        SettingsError: it cannot be written.
    """
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
        store = await stack.enter_async_context(bootstrap.open_store(settings))
        services = await bootstrap.build_services(store, settings)
        stack.push_async_callback(services.aclose)
        hydrating = hydration(store, settings)
        if hydrating is not None:
            stack.push_async_callback(hydrating.aclose)
        worker = Worker(services, settings.environments, hydration=hydrating, alive_file=settings.alive_file)
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, worker.stop)
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
        if ignored := environment.ignored_names(environ):
            _log.warning("settings_ignored", names=ignored, reason="this build does not know them")
        if mixed := mixed_versions():
            _log.warning("packages_mixed", installed=mixed, action="install planwire-client in the version of planwire")
        if settings.watch_pid:
            parent_watch.watch(settings.watch_pid)
        asyncio.run(serve(settings))
    except SyncError as error:
        print(f"planwire worker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
