"""Backfill: takes every subscription of a provider into the store, and its purchases and refunds if they matter.

A run may be stopped or killed anywhere; the next one continues after the last subscription taken. Webhooks may arrive
at the same time. `backfill_item` handles one subscription; this module handles the pages, the progress and the report.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.outcome import Outcome
from sync.billing.providers.base import ListedSubscription, ProviderUnavailable, SubscriptionPage
from sync.billing.services.background.backfill_item import BackfillItem
from sync.billing.services.background.dry_run import DryRun
from sync.billing.services.provider_lists import is_of_payments, payments_matter, read_page
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import LEASE_S, BackfillProgress, Counts, ItemResult
from sync.core.errors import SyncError
from sync.store.models import StoreError

MAX_WAIT_S = 60.0
"""Maximum time for one page, including the wait for the rate limit."""

FAILURES_MAX = 8
"""Consecutive failures after which a run gives up; the next run continues there."""

BACKOFF_S, BACKOFF_MAX_S = 1.0, 30.0
DRIFT_SHOWN = 100
"""Maximum drift records in a report; all are kept in the store."""

T = TypeVar("T")


class BackfillError(SyncError):
    """The backfill cannot start as requested; the message says why."""


class Screen(Protocol):
    """Shows the progress of a run."""

    def begin(self, seen: int, total: int | None) -> None:
        """The first page was read: earlier runs took `seen`; `total` are expected, or None if unknown."""

    def advance(self) -> None:
        """One more subscription was taken."""

    def wait(self, seconds: float, reason: str) -> None:
        """The run pauses for `seconds`."""


@dataclass(slots=True, kw_only=True)
class Report(Counts):
    """The result of a run, including the runs that it continued.

    `drift` counts the subscriptions that differed and whose tenant existed before; `records` holds the first
    DRIFT_SHOWN of them. `complete` is False if the run was stopped, or `--limit` was reached.
    """

    provider: str
    environment: str
    dry_run: bool
    complete: bool = False
    resumed: bool = False
    tenants_made: int = 0
    records: list[Drift] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def taken(self) -> int:
        """How many subscriptions and payments were new or differed."""
        return self.seen - self.unchanged - len(self.parked)

    def count(self, entry: ListedSubscription, result: ItemResult) -> None:
        """Add a subscription and its result."""
        self.seen += 1
        self.after = entry.after or self.after
        self.payments += is_of_payments(entry.after)
        self.unchanged += result.outcome is Outcome.UNCHANGED
        if result.outcome is Outcome.PARKED:
            self.parked[entry.event_id] = result.reason
        if result.drift is not None:
            self.drift += 1
            if len(self.records) < DRIFT_SHOWN:
                self.records.append(result.drift)

    def shown(self) -> dict[str, object]:
        """Return the report as a JSON document."""
        return {
            "provider": self.provider,
            "env": self.environment,
            "dry_run": self.dry_run,
            "complete": self.complete,
            "resumed": self.resumed,
            "subscriptions": self.seen - self.payments,
            "payments": self.payments,
            "taken": self.taken,
            "unchanged": self.unchanged,
            "tenants_made": self.tenants_made,
            "parked": [{"event_id": event_id, "reason": reason} for event_id, reason in self.parked.items()],
            "drift": self.drift,
            "drift_records": [drift.shown() for drift in self.records],
            "seconds": round(self.seconds, 3),
        }


class Backfill:
    """One run over the subscriptions of a provider's environment; `stop` ends it after the current one."""

    def __init__(self, services: BillingServices, provider: str, environment: str, screen: Screen) -> None:
        self._services = services
        self._provider = provider
        self._environment = environment
        self._client = services.clients[provider, environment]
        self._progress = BackfillProgress(services.store, provider, environment)
        self._has_lease = False
        self._screen = screen
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Make `run` return its report soon."""
        self._stopped.set()

    async def run(self, *, dry_run: bool = False, restart: bool = False, limit: int | None = None) -> Report:
        """Run and return the report. After an incomplete run the next one continues.

        Args:
            dry_run: write nothing, and start at the beginning.
            restart: start at the beginning.
            limit: maximum number of subscriptions to take; None: all.

        Raises:
            BackfillError: another run is at work.
            ProviderUnavailable: FAILURES_MAX times in a row.
            ProviderRejected: the API key lacks a permission, or the provider's list no longer has the cursor.
            StoreError: the store is unreachable or failing.
        """
        began = time.monotonic()
        report = Report(provider=self._provider, environment=self._environment, dry_run=dry_run)
        if dry_run:
            await self._walk(report, DryRun(self._services, self._provider, self._environment), limit)
        elif await self._is_alone():
            try:
                await self._progress.open(report, restart=restart)
                report.resumed = bool(report.seen)
                item = BackfillItem(self._services, self._provider, self._environment, self._progress.made_key)
                await self._walk(report, item, limit)
                await self._services.committer.wait_durable()
                if report.complete:
                    await self._progress.forget()
            finally:
                with contextlib.suppress(StoreError):  # it expires
                    await self._progress.lease.release()
        report.seconds = time.monotonic() - began
        return report

    async def _walk(self, report: Report, item: BackfillItem, limit: int | None) -> None:
        """Take the subscriptions after `report.after`, and add their results to the report."""
        stop_at = math.inf if limit is None else report.seen + limit
        is_first = True
        with contextlib.suppress(_Stopped):
            while not report.complete:
                page = await self._page(report.after)
                if is_first:
                    self._screen.begin(report.seen, page.total)
                    is_first = False
                for entry in page.entries:
                    if self._stopped.is_set() or report.seen >= stop_at:
                        raise _Stopped
                    result = await item.apply(entry)
                    report.count(entry, result)
                    if not report.dry_run:
                        await self._progress.move(entry, result, is_payment=is_of_payments(entry.after))
                    self._screen.advance()
                report.complete = not page.following
                report.after = page.following or report.after
        report.parked = await item.still_parked(report.parked)
        report.tenants_made = await item.count_made()

    async def _page(self, after: str) -> SubscriptionPage:
        """Return the page after a subscription. Retry with backoff while the provider is unavailable or throttles.

        Raises:
            _Stopped: `stop` was called.
            ProviderUnavailable: FAILURES_MAX times in a row.
        """
        for attempt in range(1, FAILURES_MAX + 1):
            try:
                setting = self._services.setting(self._environment)
                matter = payments_matter(self._provider, setting)
                page = read_page(self._client, after, MAX_WAIT_S, with_payments=matter)
                return await self._unless_stopped(page)
            except ProviderUnavailable as error:
                if attempt == FAILURES_MAX:
                    raise
                wait_s = max(error.retry_s, min(BACKOFF_S * 2.0 ** (attempt - 1), BACKOFF_MAX_S))
                self._screen.wait(wait_s, str(error))
                await self._unless_stopped(asyncio.sleep(wait_s))
        raise AssertionError("unreachable")

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, and renew the lease meanwhile. Raise _Stopped if `stop` comes first."""
        async with asyncio.TaskGroup() as group:
            task, stopped = group.create_task(_kept(work)), group.create_task(self._stopped.wait())
            while not task.done() and not stopped.done():
                await asyncio.wait((task, stopped), timeout=LEASE_S / 4, return_when=asyncio.FIRST_COMPLETED)
                if self._has_lease:
                    await _kept(self._progress.lease.acquire())
            task.cancel()
            stopped.cancel()
        if task.cancelled():
            raise _Stopped
        result = task.result()
        if isinstance(result, SyncError):
            raise result
        return result

    async def _is_alone(self) -> bool:
        """Wait for the lease; return whether the run has it (False: stopped). A killed run's lease lasts LEASE_S.

        Raises:
            BackfillError: another run is at work.
        """
        deadline = time.monotonic() + 2 * LEASE_S
        while not await self._progress.lease.acquire():
            if time.monotonic() > deadline:
                what = f"{self._provider} in {self._environment}"
                raise BackfillError(f"another backfill of {what} is at work: wait for it, or stop it")
            self._screen.wait(LEASE_S, "another backfill is at work, or was killed a moment ago")
            try:
                await self._unless_stopped(asyncio.sleep(LEASE_S / 4))
            except _Stopped:
                return False
        self._has_lease = True
        return True


class _Stopped(Exception):
    """`stop` was called, or the limit is reached."""


async def _kept(work: Coroutine[Any, Any, T]) -> T | SyncError:
    """Return the result of `work`, or the SyncError that it raises: a task group would wrap the error."""
    try:
        return await work
    except SyncError as error:
        return error
