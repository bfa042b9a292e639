"""Compare tenants with their provider and repair what differs: asked for, when a timer fires, in the background.

A difference is a drift record, and its repair a commit like any other; where the provider cannot be asked, time alone
has its say, by the catalog's policy. It owns no task and speaks no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import structlog

from planwire_client.core.topic import TENANT_KIND, Topic
from sync.billing.domain.drift import Drift, subscription_drift
from sync.billing.domain.evaluation import overdue_subscriptions
from sync.billing.domain.model import Event, Facts
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.scheduled_changes import target_items
from sync.billing.providers.base import ProviderClient, ProviderRejected, ProviderUnavailable
from sync.billing.services.ingest import Pipeline
from sync.billing.services.reproject import Adopted, Reprojection
from sync.billing.storage.provider_snapshots import record_snapshots
from sync.billing.storage.tenant_facts import FactsError, facts_of
from sync.billing.storage.tenant_links import TenantLinks
from sync.store.command_pipeline import Batch
from sync.store.delayed_queue import Due

PATIENCE_S = 10.0
"""How long somebody who asked for it waits for each answer of the provider."""

BACKGROUND_PATIENCE_S = 60.0
"""The same where nobody waits: the rate budget is what takes time."""

TIMER_PATIENCE_S = 5.0

ASKED_MAX = 50
"""How many subscriptions of one tenant are compared at once: live ones before ended ones, the newest first."""

NOBODY: Mapping[str, str] = MappingProxyType({})
"""What a cause says of who asked for a comparison that nobody asked for."""

PAGES_MAX = 500
"""How many pages of the provider's subscriptions a search for lost tenants reads at most (200 subscriptions each)."""

_log = structlog.get_logger("sync.reconcile")


@dataclass(slots=True)
class Report:
    """What a comparison found: how many subscriptions were asked about, which were not and why, and the drift."""

    receipt: EventResult
    asked: int = 0
    unasked: dict[str, str] = field(default_factory=dict)
    drift: list[Drift] = field(default_factory=list)


@dataclass(slots=True)
class _Answers:
    """What the provider said: the bodies, and of those without one why."""

    fetched: list[Event] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class Reconciliation:
    """Compares the tenants of a pipeline with their providers."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.reprojection = Reprojection(pipeline)

    def can_ask(self, environment: str) -> bool:
        """Return whether an environment has a provider that can be asked."""
        return any(name == environment for _, name in self._pipeline.sources)

    async def reconcile(
        self,
        environment: str,
        topic: str,
        why: str,
        patience_s: float = PATIENCE_S,
        *,
        background: bool = False,
        who: Mapping[str, str] = NOBODY,
    ) -> Report:
        """Return what comparing a tenant with its provider found, once it is repaired.

        `why` goes into the records, and with `who` into the cause.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        facts = await self._facts(topic)
        if facts is None:
            return Report(EventResult(Outcome.UNCHANGED, "what it keeps is not a tenant's facts"))
        if facts.erased_ns is not None:
            return Report(
                EventResult(Outcome.UNCHANGED, ERASED_REASON, version=(await self._pipeline.store.read(topic)).version)
            )
        if not facts.subscriptions:
            found = await self.search(environment, {Topic.parse(topic).id}, why, who)
            if found is None:
                return Report(
                    EventResult(Outcome.UNCHANGED), unasked={topic: "the provider's list could not be read to its end"}
                )
            return found.get(topic) or Report(
                EventResult(Outcome.UNCHANGED, version=(await self._pipeline.store.read(topic)).version)
            )
        answers = await self._ask(environment, facts, _chosen(facts), patience_s, background)
        return await self._repair(environment, topic, why, answers, who)

    async def fire(self, environment: str, due: Due) -> EventResult:
        """Return what time made of a topic whose timer the caller has claimed, and set the timer anew.

        The provider is asked first about every subscription to which something should have happened.

        Raises:
            StoreError: the store is unreachable or failing; the timer fires again when its lease has run out.
        """
        pipeline = self._pipeline
        facts = await self._facts(due.topic) if self.can_ask(environment) else None
        answers = _Answers()
        if facts is not None:
            keys = overdue_subscriptions(facts, pipeline.catalog_watcher.current.policy, pipeline.now_ns())
            answers = await self._ask(environment, facts, keys[:ASKED_MAX], TIMER_PATIENCE_S, False)
        adopted = await self._adopt(environment, due.topic, "timer", "due", answers, arms=False)
        await self._record(environment, _drift(due.topic, "timer", answers, adopted, pipeline.now_ns() // 1000))
        if self.can_ask(environment):
            adopted = await self._execute(environment, due.topic, adopted)
        batch = Batch(pipeline.store)
        pipeline.environment(environment).timers.settle(batch, due, adopted.wake_us)
        await batch.run()
        # Another writer's `arm` between our read and our settling may have had no effect: look once more.
        (version,) = await pipeline.store.versions([due.topic])
        if version != adopted.receipt.version:
            batch = Batch(pipeline.store)
            pipeline.environment(environment).timers.arm(batch, due.topic, pipeline.now_ns() // 1000)
            await batch.run()
        return adopted.receipt

    async def is_lost(self, topic: str) -> bool:
        """Return whether nothing is known of a tenant's subscriptions.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        facts = await self._facts(topic)
        return facts is not None and not facts.subscriptions and facts.erased_ns is None

    async def search(
        self, environment: str, tenants: set[str], why: str, who: Mapping[str, str] = NOBODY
    ) -> dict[str, Report] | None:
        """Return, by topic, what was rebuilt of tenants whose facts are lost, from the provider's whole list.

        One pass for all of them. A subscription is a tenant's by custom_data, or by the link learned before. None
        where the list could not be read to its end; what was found until then is rebuilt all the same.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        found: dict[str, _Answers] = {}
        complete = True
        for (_, name), source in self._pipeline.sources.items():
            if name == environment:
                try:
                    await self._list(source, environment, tenants, found)
                except (ProviderUnavailable, ProviderRejected) as error:
                    _log.warning("search_ended", environment=environment, reason=str(error))
                    complete = False
        reports = {topic: await self._repair(environment, topic, why, answers, who) for topic, answers in found.items()}
        return reports if complete else None

    async def _list(
        self, source: ProviderClient, environment: str, tenants: set[str], found: dict[str, _Answers]
    ) -> None:
        after = ""
        for _ in range(PAGES_MAX):
            listed = await source.subscriptions(after, BACKGROUND_PATIENCE_S)
            page, after = [entry.event for entry in listed.entries if entry.event is not None], listed.following
            for event, tenant in zip(page, await self._tenants(environment, page), strict=True):
                if tenant in tenants:
                    topic = str(Topic(environment, TENANT_KIND, tenant))
                    found.setdefault(topic, _Answers()).fetched.append(event)
            if not after:
                return
        _log.warning("search_ended", environment=environment, reason=f"more than {PAGES_MAX} pages")

    async def _tenants(self, environment: str, page: Sequence[Event]) -> list[str | None]:
        links = self._pipeline.environment(environment).links
        batch = Batch(self._pipeline.store)
        for event in page:
            assert event.subscription_id is not None
            links.look_up(batch, event.provider, event.subscription_id, None)
        return [
            TenantLinks.looked_up([reply]).tenant_id or event.tenant_id
            for event, reply in zip(page, await batch.run(), strict=True)
        ]

    async def _facts(self, topic: str) -> Facts | None:
        try:
            return facts_of(await self._pipeline.store.read(topic))
        except FactsError:
            return None

    async def _ask(
        self, environment: str, facts: Facts, keys: Sequence[str], patience_s: float, background: bool
    ) -> _Answers:
        answers = _Answers()
        for key in keys:
            entry = facts.subscriptions[key]
            source = self._pipeline.sources.get((entry.provider, environment))
            if source is None:
                answers.unavailable[key] = "no API key is set"
                continue
            try:
                answers.fetched.append(await source.fetch(entry.subscription.id, patience_s, background=background))
            except ProviderUnavailable as error:
                answers.unavailable[key] = error.reason
            except ProviderRejected as error:
                if error.code == "not_found":
                    answers.missing.append(key)
                else:
                    answers.unavailable[key] = str(error)
        return answers

    async def _repair(
        self, environment: str, topic: str, why: str, answers: _Answers, who: Mapping[str, str]
    ) -> Report:
        adopted = await self._adopt(environment, topic, "reconcile", why, answers, who=who)
        await self.reprojection.arm(environment, topic, adopted)
        drift = _drift(topic, why, answers, adopted, self._pipeline.now_ns() // 1000)
        await self._record(environment, drift)
        return Report(adopted.receipt, len(answers.fetched) + len(answers.missing), answers.unavailable, drift)

    async def _adopt(
        self,
        environment: str,
        topic: str,
        source: str,
        why: str,
        answers: _Answers,
        *,
        arms: bool = True,
        who: Mapping[str, str] = NOBODY,
    ) -> Adopted:
        cause = {"source": source, "event_type": why, **who}
        if answers.missing:
            batch = Batch(self._pipeline.store)
            record_snapshots(batch, topic, (), answers.missing, self._pipeline.now_ns() // 1000)
            await batch.run()
        return await self.reprojection.adopt(environment, topic, answers.fetched, cause, arms=arms)

    async def _execute(self, environment: str, topic: str, adopted: Adopted) -> Adopted:
        """Have the provider make the tenant's held change, if its time has come; what it answers is adopted."""
        held, facts = adopted.after.scheduled_change, adopted.after
        if held is None or held.executed or self._pipeline.now_ns() < held.execute_ns:
            return adopted
        source = self._pipeline.sources.get((facts.subscriptions[held.subscription].provider, environment))
        if source is None:
            return adopted
        told = target_items(facts, self._pipeline.catalog_watcher.current, environment)
        answered: list[Event] = []
        problem = ""
        if told is not None:
            subscription_id, items = told
            try:
                answered = [await source.change_items(subscription_id, items, held.billing_mode, PATIENCE_S)]
            except ProviderUnavailable as error:
                problem = "provider_unavailable"
                _log.warning("held_change_not_made", topic=topic, reason=error.reason)
            except ProviderRejected as error:
                # Some pass by themselves (a bill that is due, a payment that failed); others are for people to see.
                problem = error.code
                _log.warning("held_change_refused", topic=topic, code=error.code, detail=error.detail)
        done = replace(held, executed=not problem, problem=problem)

        def mark(now: Facts) -> Facts:
            # Somebody may have replaced or deleted it meanwhile.
            return replace(now, scheduled_change=done) if now.scheduled_change == held else now

        cause = {"source": "app", "event_type": "scheduled_change.refused" if problem else "scheduled_change.executed"}
        marked = await self.reprojection.adopt(environment, topic, answered, cause, mark, arms=False)
        return marked

    async def _record(self, environment: str, drift: Sequence[Drift]) -> None:
        if not drift:
            return
        batch = Batch(self._pipeline.store)
        for entry in drift:
            self._pipeline.environment(environment).drifts.add(batch, entry)
            _log.warning("drift", topic=entry.topic, kind=entry.kind, subject=entry.subject, why=entry.why)
        await batch.run()


def _chosen(facts: Facts) -> list[str]:
    """The keys to compare: what is live first, then the newest."""
    subscriptions = facts.subscriptions
    newest = sorted(subscriptions, key=lambda key: subscriptions[key].order, reverse=True)
    return sorted(newest, key=lambda key: subscriptions[key].subscription.status == "canceled")[:ASKED_MAX]


def _drift(topic: str, why: str, answers: _Answers, adopted: Adopted, at_us: int) -> list[Drift]:
    """What differed: the subscriptions whose body was replaced, and those that the provider does not have."""
    found = []
    for event in answers.fetched:
        drift = subscription_drift(topic, why, event, adopted.before, adopted.after, at_us)
        if drift is not None:
            found.append(replace(drift, version=adopted.receipt.version))
    found += [Drift("unknown_there", topic, key, why, at_us) for key in answers.missing]
    return found
