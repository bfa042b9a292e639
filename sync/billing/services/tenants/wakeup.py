"""Handles the timers of tenants: asks the provider about due changes, and has it make scheduled plan changes.

Without an API client, the catalog's policy decides what an overdue change does.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from sync.billing.domain.entitlements.evaluation import overdue_subscriptions
from sync.billing.domain.entitlements.scheduled_changes import target_items
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import Event, Facts
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.bills import AwaitedBills
from sync.billing.services.committer import Commit
from sync.billing.services.context import BillingContext
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.services.tenants.provider_queries import ASKED_MAX, Answers, ProviderQueries
from sync.billing.services.tenants.reconcile import MAX_WAIT_S, Reconciliation
from sync.billing.storage.tenants import facts_of
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import Due

TIMER_MAX_WAIT_S = 5.0
"""Maximum time for each answer of the provider."""

_log = structlog.get_logger("sync.reconcile")


class Wakeup:
    """Fires the timers of tenants."""

    def __init__(
        self,
        context: BillingContext,
        reprojection: Reprojection,
        reconciliation: Reconciliation,
        queries: ProviderQueries,
    ) -> None:
        self._bills = AwaitedBills(context, reprojection)
        self._context = context
        self._reprojection = reprojection
        self._reconciliation = reconciliation
        self._queries = queries

    async def fire(self, environment: str, due: Due) -> None:
        """Reproject a topic whose timer the caller has claimed, and set the timer again.

        Every subscription with a due change is fetched from its provider first.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing; the timer fires again when its lease has expired.
        """
        can_ask = self._context.can_ask(environment)
        answers = Answers()
        facts = facts_of(await self._context.store.read(due.topic))
        # A process that stopped in the middle of a move has left it to the timer.
        facts = await self._reconciliation.at_home(due.topic, facts, "timer")
        if can_ask:
            keys = overdue_subscriptions(facts, self._context.setting(environment))[:ASKED_MAX]
            answers = await self._queries.ask(environment, due.topic, facts, keys, TIMER_MAX_WAIT_S)
        refresh = Refresh({"source": "timer", "event_type": "due"}, answers.fetched, answers.missing, arms=False)
        commit = await self._reprojection.refresh(environment, due.topic, refresh)
        await self._reconciliation.record_drift(environment, due.topic, "timer", answers, commit)
        if can_ask:
            for change in commit.decision.after.scheduled_changes:
                commit = await self._execute_change(environment, due, commit, change)
        commit = await self._bills.end_overdue(environment, commit)
        await self._set_timer(environment, due, commit)

    async def _execute_change(self, environment: str, due: Due, commit: Commit, change: ScheduledPlanChange) -> Commit:
        """Have the provider make a scheduled change of the tenant if it is due, and merge the answer."""
        topic, facts = commit.topic, commit.decision.after
        is_there = change in facts.scheduled_changes and change.subscription in facts.subscriptions
        if not is_there or change.executed or self._context.now_ns() < change.execute_ns:
            return commit
        client = self._context.clients.get((facts.subscriptions[change.subscription].provider, environment))
        if client is None:
            return commit
        target = target_items(facts, change, self._context.setting(environment))
        answered: list[Event] = []
        problem = ""
        if target is not None:
            if not await self._context.environment(environment).timers.holds(due):
                return commit  # this process was paused, and another has made the change
            try:
                answered = [await client.change_items(*target, change.billing_mode, MAX_WAIT_S)]
            except ProviderUnavailable as error:
                problem = "provider_unavailable"
                _log.warning("held_change_not_made", topic=topic, reason=error.reason)
            except ProviderRejected as error:
                # Some causes pass by themselves (a bill that is due, a failed payment); others need an operator.
                problem = error.code
                _log.warning("held_change_refused", topic=topic, code=error.code, detail=error.detail)
        tried = replace(change, executed=not problem, problem=problem)

        def mark(now: Facts) -> Facts:
            # The change may have been replaced or deleted meanwhile.
            return replace(
                now, scheduled_changes=tuple([tried if one == change else one for one in now.scheduled_changes])
            )

        cause = {"source": "app", "event_type": "scheduled_change.refused" if problem else "scheduled_change.executed"}
        return await self._reprojection.refresh(environment, topic, Refresh(cause, answered, change=mark, arms=False))

    async def _set_timer(self, environment: str, due: Due, commit: Commit) -> None:
        """End the claim; the timer fires again at the next wakeup, if there is one."""
        timers = self._context.environment(environment).timers
        await timers.ack(due, commit.decision.wake_us)
        # An older build may have set a timer between our read and the end of our claim, which discards it: check again.
        (version,) = await self._context.store.versions([due.topic])
        if version != commit.result.version:
            batch = CommandPipeline(self._context.store)
            timers.schedule_earlier(batch, due.topic, self._context.now_us)
            await batch.run()
