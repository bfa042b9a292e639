"""Compares what billing computes of a tenant with the other system's answer, and stores the answer."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from sync.billing.catalog.catalog import Shadow
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import NOTHING
from sync.billing.domain.shadow.comparison import Comparison, Extract, compare, extract
from sync.billing.domain.shadow.values import kind_of
from sync.billing.services.context import BillingContext
from sync.billing.storage.tenants import tenant_of
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot

DEFAULT = Shadow()
"""How answers are read if the catalog does not say: they have our own form."""


class Compared(NamedTuple):
    """The result of a comparison. `is_stale`: the answer is older than the stored one, and was not used."""

    comparison: Comparison = Comparison()
    is_stale: bool = False


class Said(NamedTuple):
    """What the other system said of a tenant.

    Attributes:
        answer: the declared fields; None if it does not know the tenant.
        at_us: when, microseconds since 1970.
        read_by: the fields that were declared then, shortened.
    """

    answer: Extract | None
    at_us: int
    read_by: str


class ShadowComparisons:
    """The comparisons of one store."""

    def __init__(self, context: BillingContext) -> None:
        self._context = context

    async def answered(
        self, environment: str, topic: str, answer: Mapping[str, Any] | None, at_us: int, why: str
    ) -> Compared:
        """Compare a tenant with an answer of the other system, and store the answer; return what differs.

        Args:
            answer: None: the system does not know the tenant, and nothing is compared.
            at_us: the time of the answer, microseconds since 1970; one that is older than the stored answer is dropped.
            why: what brought it, for the drift record.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        record = await self._context.environment(environment).shadow.record(topic)
        if record is not None and record["at_us"] > at_us:
            return Compared(is_stale=True)
        found = None if answer is None else extract(answer, self._declared)
        return await self._compare(environment, topic, Said(found, at_us, self._read_by), why, record)

    async def recheck(self, environment: str, topic: str) -> None:
        """Compare a tenant again with the last answer, if there is one: billing or the catalog may have changed since.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        record = await self._context.environment(environment).shadow.record(topic)
        if record is not None:
            await self._compare(environment, topic, _said_in(record), "recheck", record)

    async def after_edit(self, environment: str, topic: str) -> None:
        """Compare a tenant with the last answer as the catalog reads it now; ask again if it reads other fields.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        known = self._context.environment(environment)
        record = await known.shadow.record(topic)
        if record is None:
            return
        await self._compare(environment, topic, _said_in(record), "catalog", record)
        if record["read_by"] != self._read_by:
            batch = CommandPipeline(self._context.store)
            known.shadow.queue.schedule_earlier(batch, topic, self._context.now_us)
            await batch.run()

    async def failed(self, environment: str, topic: str, reason: str) -> None:
        """Count and store that the other system has failed for a tenant.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._context.store)
        self._count(batch, "shadow_comparisons", result="failed", env=environment)
        self._context.environment(environment).shadow.put_problem(batch, topic, reason, self._context.now_us)
        await batch.run()

    @property
    def _declared(self) -> Shadow:
        return self._context.catalog_watcher.current.shadow or DEFAULT

    @property
    def _read_by(self) -> str:
        """The declared fields, shortened: a stored answer has those of the catalog that read it."""
        return sha256(orjson.dumps(self._declared.fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]

    async def _compare(
        self, environment: str, topic: str, said: Said, why: str, record: Mapping[str, Any] | None
    ) -> Compared:
        known, setting = self._context.environment(environment), self._context.setting(environment)
        snapshot = await self._context.store.read(topic)
        if snapshot.erased:
            return Compared()
        state, is_known = self._computed(snapshot, environment)
        found = compare(state, said.answer or {}, self._declared, setting.catalog)
        differences = [list(one) for one in found.differences]
        batch = CommandPipeline(self._context.store)
        if differences and (record is None or record["differences"] != differences):
            here, there = ({one.field: getattr(one, side) for one in found.differences} for side in ("here", "there"))
            known.drifts.add(batch, Drift("shadow", topic, "", why, setting.now_ns // 1000, here, there))
            for kind in sorted({kind_of(one.field) for one in found.differences}):
                self._count(batch, "shadow_differences", field=kind, env=environment)
        self._count(batch, "shadow_comparisons", result=_result(said, found), env=environment)
        kept = {
            "answer": said.answer,
            "read_by": said.read_by,
            "compared_us": setting.now_ns // 1000,
            "plan": state.get("plan", {}).get("key", ""),
            "is_known": is_known,
            "compared": found.compared,
            "differences": differences,
        }
        known.shadow.put_record(batch, topic, said.at_us, kept)
        await batch.run()
        return Compared(found)

    def _computed(self, snapshot: Snapshot, environment: str) -> tuple[dict[str, Any], bool]:
        """Return what billing computes of a tenant, and whether it knows the tenant: else, what everybody has."""
        tenant = tenant_of(snapshot)
        state = orjson.loads(tenant.shown) if tenant.is_known else None
        if isinstance(state, dict):
            return state, True
        projected = project(NOTHING, self._context.setting(environment))
        return (projected.state if isinstance(projected, Projected) else {}), tenant.is_known

    def _count(self, batch: CommandPipeline, name: str, **labels: str) -> None:
        batch.command("HINCRBY", batch.keys.counters, counters.field(name, **labels), 1)


def _said_in(record: Mapping[str, Any]) -> Said:
    """Return the answer in what is stored of it."""
    return Said(record["answer"], record["at_us"], record["read_by"])


def _result(said: Said, found: Comparison) -> str:
    """Return the result for the metric: absent, not_compared, differs or equal."""
    if said.answer is None:
        return "absent"
    if not found.compared:
        return "not_compared"
    return "differs" if found.differences else "equal"
