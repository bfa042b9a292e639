"""Billing in the shadow of another entitlement system: compares tenants with its answers, and switches them.

A tenant in the shadow has all its facts. Its state is stored beside what readers see (`storage.tenants.is_shadow`). A
switch is one commit that makes the two change places; so is a switch back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from planwire_client.core import canonical_json
from sync.billing.catalog.catalog import Shadow
from sync.billing.domain.decision import Decided, decide_without_event
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import NOTHING
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.shadow.comparison import Comparison, Difference, Extract, compare, extract
from sync.billing.domain.shadow.values import kind_of
from sync.billing.services.committer import Committer, Decision, Write
from sync.billing.services.context import BillingContext
from sync.billing.storage.shadow import Switches
from sync.billing.storage.tenants import billed, has_facts, is_shadow, tenant_of
from sync.core import instants
from sync.core.pauses import Pauses
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot

SWITCHED, SWITCHED_BACK = "shadow.switched", "shadow.switched_back"
"""The types of the versions that a switch makes."""

PAGE = 200
"""Tenants queued at a time."""

DEFAULT = Shadow()
"""How answers are read if the catalog does not say: they have our own form."""


class Compared(NamedTuple):
    """The result of a comparison. `is_stale`: the answer is older than the stored one, and was not used."""

    comparison: Comparison = Comparison()
    is_stale: bool = False


@dataclass(slots=True)
class ShadowReport:
    """What is known of the tenants that the other system has answered for.

    Attributes:
        switches: which tenants are switched.
        compared, differing: numbers of tenants.
        fields: a field that differs -> number of tenants.
        plans: the plan that billing computes -> number of tenants that differ.
        examples: the tenants that differ, with their differences, the newest first.
    """

    switches: Switches = field(default_factory=Switches)
    compared: int = 0
    differing: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    plans: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


class Shadowing:
    """The shadow of one store."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._committer = committer

    async def answered(self, environment: str, topic: str, answer: Mapping[str, Any], at_us: int, why: str) -> Compared:
        """Compare a tenant with an answer of the other system, and store the answer; return what differs.

        Args:
            at_us: the time of the answer, microseconds since 1970; one that is older than the stored answer is dropped.
            why: what brought it, for the drift record.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        record = await self._context.environment(environment).shadow.record(topic)
        if record is not None and record["at_us"] > at_us:
            return Compared(is_stale=True)
        return await self._compare(environment, topic, extract(answer, self._declared), at_us, why, record)

    async def recheck(self, environment: str, topic: str) -> None:
        """Compare a tenant again with the last answer, if there is one: billing may have changed since.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        record = await self._context.environment(environment).shadow.record(topic)
        if record is not None:
            await self._compare(environment, topic, record["answer"], record["at_us"], "recheck", record)

    @property
    def _declared(self) -> Shadow:
        return self._context.catalog_watcher.current.shadow or DEFAULT

    async def _compare(
        self, environment: str, topic: str, answer: Extract, at_us: int, why: str, record: Mapping[str, Any] | None
    ) -> Compared:
        known, setting = self._context.environment(environment), self._context.setting(environment)
        snapshot = await self._context.store.read(topic)
        if snapshot.erased:
            return Compared()
        tenant = tenant_of(snapshot)
        state = orjson.loads(tenant.shown) if tenant.is_known else None
        if not isinstance(state, dict):
            projected = project(NOTHING, setting)  # what a tenant has of which billing knows nothing
            state = projected.state if isinstance(projected, Projected) else {}
        found = compare(state, answer, self._declared, setting.catalog)
        differences = [list(one) for one in found.differences]
        batch = CommandPipeline(self._context.store)
        if differences and (record is None or record.get("differences") != differences):
            here, there = ({one.field: getattr(one, side) for one in found.differences} for side in ("here", "there"))
            known.drifts.add(batch, Drift("shadow", topic, "", why, setting.now_ns // 1000, here, there))
            for kind in sorted({kind_of(one.field) for one in found.differences}):
                self._count(batch, "shadow_differences", field=kind, env=environment)
        self._count(batch, "shadow_comparisons", result="differs" if differences else "equal", env=environment)
        kept = {
            "at_us": at_us,
            "answer": answer,
            "compared_us": setting.now_ns // 1000,
            "plan": state.get("plan", {}).get("key", ""),
            "is_known": tenant.is_known,
            "differences": differences,
        }
        known.shadow.put_record(batch, topic, kept)
        await batch.run()
        return Compared(found)

    def count_unanswered(self, batch: CommandPipeline, environment: str, result: str) -> None:
        """Add to `batch` the count of a tenant that the other system does not know (`absent`), or fails for."""
        self._count(batch, "shadow_comparisons", result=result, env=environment)

    def _count(self, batch: CommandPipeline, name: str, **labels: str) -> None:
        batch.command("HINCRBY", batch.keys.counters, counters.field(name, **labels), 1)

    async def report(self, environment: str, examples: int) -> ShadowReport:
        """Return what differs, with up to `examples` tenants.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        shadow, pauses = self._context.environment(environment).shadow, Pauses()
        found, seen = ShadowReport(await shadow.switches()), set[str]()
        differing: list[tuple[int, str, dict[str, Any]]] = []
        async for topic, record in shadow.records():
            await pauses.due()
            if topic in seen:
                continue
            seen.add(topic)
            found.compared += 1
            if not record["differences"]:
                continue
            found.differing += 1
            found.plans[record["plan"]] = found.plans.get(record["plan"], 0) + 1
            for name, _, _ in record["differences"]:
                found.fields[name] = found.fields.get(name, 0) + 1
            differing.append((record["compared_us"], topic, record))
        differing.sort(key=lambda one: (-one[0], one[1]))
        found.examples = [_example(topic, record) for _, topic, record in differing[:examples]]
        return found

    async def switch(self, environment: str, topic: str, who: Mapping[str, str], *, on: bool) -> EventResult:
        """Switch a tenant, or switch it back; return `applied`, or `unchanged` if pages see the same as before.

        A tenant that billing does not know yet is switched for its first event.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing; a repeated call completes the switch.
        """
        await self._context.environment(environment).shadow.switch_tenant(topic, on=on)
        return await self.bring(environment, topic, who, is_named=True)

    async def switch_share(self, environment: str, share: float, *, clears: bool) -> int:
        """Switch a share of the tenants, 0 to 1, and the others back; return how many tenants a worker looks at now.

        Args:
            clears: whether the tenants that were switched by name follow the share, too.

        Raises:
            StoreError: the store is unreachable or failing; a repeated call completes the switch.
        """
        known = self._context.environment(environment)
        await known.shadow.switch_share(share, clears=clears)
        waiting = sorted({topic async for topic in known.topics()})
        for start in range(0, len(waiting), PAGE):
            batch = CommandPipeline(self._context.store)
            for topic in waiting[start : start + PAGE]:
                known.shadow.queue.schedule_earlier(batch, topic, self._context.now_us)
            await batch.run()
        return len(waiting)

    async def bring(
        self, environment: str, topic: str, who: Mapping[str, str] | None = None, *, is_named: bool = False
    ) -> EventResult:
        """Bring a tenant to where the switches want it.

        A tenant that was never in a shadow goes into it only if it `is_named`.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing.
        """
        on = await self._context.environment(environment).shadow.is_switched(topic)
        what = SWITCHED if on else SWITCHED_BACK
        cause = orjson.dumps({"source": "operator", "event_type": what, **(who or {})})

        def decide(snapshot: Snapshot) -> Decision:
            is_there = not is_shadow(snapshot) if on else is_shadow(snapshot)
            is_spared = not on and not snapshot.beside and not is_named
            if snapshot.erased or not has_facts(snapshot) or is_there or is_spared:
                reason = ERASED_REASON if snapshot.erased else ""
                return Decision(EventResult(Outcome.UNCHANGED, reason, topic, snapshot.version))
            tenant = tenant_of(snapshot)
            decided = decide_without_event(tenant, (), lambda facts: facts, self._context.setting(environment))
            result = EventResult(Outcome.APPLIED)
            if not isinstance(decided, Decided):  # the catalog lacks what was bought: the state stays
                write = Write(billed(snapshot).state, cause, enlists=True, switches=True)
                return Decision(result, write, tenant.facts, tenant.facts, arms=False)
            write = Write(canonical_json.encode(decided.state), cause, enlists=True, switches=True)
            return Decision(result, write, tenant.facts, decided.facts, decided.wake_us)

        commit = await self._committer.commit(topic, decide)
        await self._committer.record(commit, what)
        return commit.result


def _example(topic: str, record: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "topic": topic,
        "plan": record["plan"],
        "compared_at": instants.text(record["compared_us"] * 1000),
        "answered_at": instants.text(record["at_us"] * 1000),
        "differences": [Difference(*one)._asdict() for one in record["differences"]],
    }
    return shown | ({} if record["is_known"] else {"is_known": False})
