"""`python -m sync.worker`: what has to happen without a webhook: recovery, timers, catalog edits.

Any number of workers share the store; a lease decides who does what, and every step may be done twice without harm.
Exit status 0 after SIGINT or SIGTERM, 2 with one line on standard error where it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Mapping

import structlog

from sync import intake
from sync.billing.inbox import Record
from sync.billing.pipeline import WAITS_CATALOG, WAITS_SOFTWARE, Pipeline
from sync.billing.reprojection import Reprojection
from sync.errors import SyncError
from sync.settings import SyncSettings
from sync.state import deathwatch, embedded
from sync.state.connect import connect
from sync.state.store import StoreError

POLL_S = 0.5
"""How long a worker with nothing to do waits before it looks again, on average."""

BATCH = 100
"""How many events or timers are claimed at once."""

ATTEMPTS_MAX = 8
"""How often an event is tried that fails in a way nobody foresaw, before it is parked."""

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 300.0
STORE_PATIENCE_S = 15.0
"""How long a worker leaves the start of an embedded store to another process."""

SECOND_SWEEP_S = 5.0
"""After a catalog edit tenants are swept again: by then every process has seen the new file."""

_log = structlog.get_logger("sync.worker")


class Worker:
    """The background work of some environments. `run` owns every task."""

    def __init__(self, pipeline: Pipeline, environments: tuple[str, ...], *, poll_s: float = POLL_S) -> None:
        """Work with `pipeline` for `environments`; an idle task looks again after about `poll_s`."""
        self._pipeline = pipeline
        self._reprojection = Reprojection(pipeline)
        self._environments = environments
        self._poll_s = poll_s
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Have `run` return once what was claimed is done."""
        self._stopped.set()

    async def run(self) -> None:
        """Work until `stop`. A store that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._catalog(), name="catalog")
            for environment in self._environments:
                group.create_task(self._inbox(environment), name=f"inbox {environment}")
                group.create_task(self._timers(environment), name=f"timers {environment}")

    async def _inbox(self, environment: str) -> None:
        inbox = self._pipeline.environment(environment).inbox
        while not self._stopped.is_set():
            try:
                claimed = await inbox.claim(BATCH)
                for record in claimed:
                    await self._resume(record, environment)
            except StoreError as error:
                await self._store_away(error)
                continue
            if len(claimed) < BATCH:
                await self._pause()

    async def _resume(self, record: Record, environment: str) -> None:
        try:
            receipt = await self._pipeline.resume(record, environment)
        except StoreError:
            raise
        except Exception as error:
            # An event that fails in a way nobody foresaw must not stop the others; it stays visible and is never lost.
            _log.error("event_failed", event_id=record.event_id, attempts=record.attempts, exc_info=error)
            if record.attempts >= ATTEMPTS_MAX:
                await self._pipeline.give_up(record, environment, f"failed {record.attempts} times: {error!r}"[:300])
            else:
                delay_s = min(BACKOFF_BASE_S * 2.0**record.attempts, BACKOFF_MAX_S)
                await self._pipeline.postpone(environment, record.event_id, delay_s)
            return
        _log.info(
            "event_recovered",
            environment=environment,
            event_id=record.event_id,
            outcome=receipt.outcome,
            attempts=record.attempts,
        )

    async def _timers(self, environment: str) -> None:
        timers = self._pipeline.environment(environment).timers
        while not self._stopped.is_set():
            try:
                claimed = await timers.claim(BATCH)
                for due in claimed:
                    await self._reprojection.fire(environment, due)
            except StoreError as error:
                await self._store_away(error)
                continue
            if len(claimed) < BATCH:
                await self._pause()

    async def _catalog(self) -> None:
        """Bring every tenant up to the present catalog: at the start, and whenever the file is edited."""
        waits_on: tuple[str, ...] = (WAITS_CATALOG, WAITS_SOFTWARE)
        seen = self._pipeline.shelf.current
        sweeps_s = [0.0]
        while not self._stopped.is_set():
            current = self._pipeline.shelf.current
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
                await self._pipeline.reopen(name, thing)
            async for topic in self._pipeline.environment(name).topics():
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


async def serve(settings: SyncSettings) -> None:
    """Work until SIGINT or SIGTERM.

    Raises:
        SyncError: the catalog or the store's URL cannot be used, or the embedded store does not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        url = settings.redis_url.get_secret_value()
        if not url:
            url = await stack.enter_async_context(
                embedded.serve(settings.data_dir, patience_s=STORE_PATIENCE_S, durable=settings.durable)
            )
        store = connect(url, durable=settings.durable).store
        stack.push_async_callback(store.aclose)
        worker = Worker(await intake.pipeline(store, settings), settings.environments)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, worker.stop)
        _log.info("worker_started", environments=settings.environments)
        await worker.run()
    _log.info("worker_stopped")


def main(environ: Mapping[str, str]) -> int:
    """Run the worker that `environ` describes; return the exit status."""
    try:
        settings = SyncSettings.from_env(environ)
        if settings.watch_pid:
            deathwatch.watch(settings.watch_pid)
        asyncio.run(serve(settings))
    except SyncError as error:
        print(f"planwire worker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
