"""Compares tenants with their provider and repairs what differs: on request, and in the background.

A difference becomes a drift record, and its repair a commit like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import structlog

from planwire_client.core.topic import Topic
from sync.billing.domain.facts.drift import Drift, subscription_drift
from sync.billing.domain.facts.model import ENDED_STATUSES, NOTHING, Facts
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.services.committer import Commit
from sync.billing.services.context import BillingContext
from sync.billing.services.move import MOVED_TYPE, Moves
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.services.tenants.provider_queries import ASKED_MAX, Answers, ProviderQueries
from sync.billing.storage.tenants import facts_of
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot

MAX_WAIT_S = 10.0
"""Maximum time for each answer of the provider if a caller waits for the comparison."""

NOBODY: Mapping[str, str] = MappingProxyType({})
"""The `who` of a comparison without a caller."""

_log = structlog.get_logger("sync.reconcile")


@dataclass(slots=True)
class Report:
    """What a comparison found.

    Attributes:
        asked: number of subscriptions that the provider answered for.
        unasked: the other subscriptions, each with the reason.
        retry_s: minimum delay before a retry, in seconds; None if a retry would not help.
    """

    result: EventResult
    asked: int = 0
    unasked: dict[str, str] = field(default_factory=dict)
    drift: list[Drift] = field(default_factory=list)
    retry_s: float | None = None


class Reconciliation:
    """Compares the tenants of a store with their providers."""

    def __init__(
        self, context: BillingContext, reprojection: Reprojection, moves: Moves, queries: ProviderQueries
    ) -> None:
        self._context = context
        self._reprojection = reprojection
        self._moves = moves
        self._queries = queries

    async def reconcile(
        self,
        environment: str,
        topic: str,
        why: str,
        max_wait_s: float = MAX_WAIT_S,
        *,
        background: bool = False,
        searches: bool = True,
        who: Mapping[str, str] = NOBODY,
    ) -> Report:
        """Compare a tenant with its provider and repair the differences; return what was found.

        Args:
            why: goes into the drift records, and with `who` into the cause.
            max_wait_s: maximum time for each answer of the provider.
            searches: whether a tenant of which nothing is known is searched in the provider's whole list.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        snapshot = await self._context.store.read(topic)
        facts = facts_of(snapshot)
        if facts.erased_ns is not None:
            return Report(EventResult(Outcome.UNCHANGED, ERASED_REASON, topic, snapshot.version))
        if not facts.subscriptions:
            if not searches or facts != NOTHING:
                return Report(EventResult(Outcome.UNCHANGED, "", topic, snapshot.version))
            found = await self.search(environment, {Topic.parse(topic).id}, why, who)
            if found is None:
                unasked = {topic: "the provider's list could not be read to its end"}
                return Report(EventResult(Outcome.UNCHANGED), unasked=unasked)
            return found.get(topic) or Report(EventResult(Outcome.UNCHANGED, "", topic, snapshot.version))
        facts = await self.at_home(topic, facts, why)
        answers = await self._queries.ask(environment, topic, facts, _chosen(facts), max_wait_s, background=background)
        await self._queries.ask_payments(environment, topic, facts, answers, max_wait_s)
        return await self.repair(environment, topic, why, answers, who)

    async def at_home(self, topic: str, facts: Facts, why: str) -> Facts:
        """Return a tenant's facts without the subscriptions that belong to another tenant: they are moved there.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if not await self._moves.check(topic, facts.subscriptions.values(), {"source": why, "event_type": MOVED_TYPE}):
            return facts
        return facts_of(await self._context.store.read(topic))

    async def is_lost(self, topic: str) -> bool:
        """Return whether a gateway has restored a tenant's state, and its facts have no subscription.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        snapshot = await self._context.store.read(topic)
        return snapshot.restored and _is_blank(snapshot)

    async def is_blank(self, topic: str) -> bool:
        """Return whether a tenant has no subscription, and is not erased.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        return _is_blank(await self._context.store.read(topic))

    async def search(
        self, environment: str, tenants: set[str], why: str, who: Mapping[str, str] = NOBODY
    ) -> dict[str, Report] | None:
        """Rebuild tenants whose facts are lost, from the provider's whole list; return the reports by topic.

        One pass serves all tenants. A subscription's tenant is that of its strongest name. Returns None if the list
        could not be read to its end; the tenants found until then are rebuilt all the same.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        found = await self._queries.find(environment, tenants)
        reports = {
            topic: await self.repair(environment, topic, why, answers, who) for topic, answers in found.answers.items()
        }
        return reports if found.is_complete else None

    async def record_drift(
        self, environment: str, topic: str, why: str, answers: Answers, commit: Commit
    ) -> list[Drift]:
        """Record the drift that the answers show and the commit has repaired; return it.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        now_us, decision = self._context.now_us, commit.decision
        shown = [
            subscription_drift(topic, why, event, decision.before, decision.after, now_us) for event in answers.fetched
        ]
        # A purchase and what went back of it show the same difference.
        differing = {drift.subject: drift for drift in shown if drift is not None}
        found = [replace(drift, version=commit.result.version) for drift in differing.values()]
        found += [Drift("unknown_there", topic, key, why, now_us) for key in answers.missing]
        batch = CommandPipeline(self._context.store)
        for drift in found:
            self._context.environment(environment).drifts.add(batch, drift)
            _log.warning("drift", topic=topic, kind=drift.kind, subject=drift.subject, why=why)
        await batch.run()
        return found

    async def repair(
        self, environment: str, topic: str, why: str, answers: Answers, who: Mapping[str, str] = NOBODY
    ) -> Report:
        """Commit the providers' answers about a tenant, and record the drift.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        refresh = Refresh({"source": "reconcile", "event_type": why, **who}, answers.fetched, answers.missing)
        commit = await self._reprojection.refresh(environment, topic, refresh)
        drift = await self.record_drift(environment, topic, why, answers, commit)
        asked = len(answers.fetched) + len(answers.missing)
        return Report(commit.result, asked, answers.unavailable, drift, answers.retry_s)


def _is_blank(snapshot: Snapshot) -> bool:
    facts = facts_of(snapshot)
    return not facts.subscriptions and facts.erased_ns is None


def _chosen(facts: Facts) -> list[str]:
    """Return the keys to compare, ASKED_MAX at most: live subscriptions first, then the newest."""
    subscriptions = facts.recurring
    newest = sorted(subscriptions, key=lambda key: subscriptions[key].order, reverse=True)
    return sorted(newest, key=lambda key: subscriptions[key].subscription.status in ENDED_STATUSES)[:ASKED_MAX]
