"""The report on the shadow: how many tenants are in it, and how billing differs from the other system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import Shadow
from sync.billing.domain.shadow.comparison import Difference
from sync.billing.services.context import BillingContext
from sync.billing.services.shadow.comparisons import DEFAULT
from sync.billing.storage.environment import Environment
from sync.billing.storage.shadow import Switches
from sync.core import instants
from sync.core.pauses import Pauses
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store

PAGE = 500
"""Tenants per round trip."""


@dataclass(slots=True)
class Field:
    """A compared field: the numbers of tenants that it was compared of, and that differ in it."""

    compared: int = 0
    differing: int = 0


@dataclass(slots=True)
class ShadowReport:
    """What is known of the shadow of one environment.

    Attributes:
        is_on: whether new tenants go into the shadow, unless they are switched.
        switches: which tenants are switched.
        unseen, seen: numbers of tenants of billing that pages do not see and that they see.
        compared, differing: numbers of tenants that the other system has answered for, and of those that differ.
        absent, not_compared: numbers of tenants that it does not know, and whose answer has none of the fields.
        waiting: number of tenants that wait to be compared or switched.
        problem: the other system's last failure, within ten minutes: topic, reason, at_us.
        fields: each declared field, or name in a table.
        plans: the plan that billing computes -> number of tenants that differ.
        examples: the tenants that differ, with their differences, the newest first.
    """

    is_on: bool = False
    switches: Switches = field(default_factory=Switches)
    unseen: int = 0
    seen: int = 0
    compared: int = 0
    differing: int = 0
    absent: int = 0
    not_compared: int = 0
    waiting: int = 0
    problem: dict[str, Any] | None = None
    fields: dict[str, Field] = field(default_factory=dict)
    plans: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


async def report(context: BillingContext, environment: str, examples: int) -> ShadowReport:
    """Return what is known of an environment's shadow, with up to `examples` tenants that differ.

    Reads every tenant: milliseconds for a thousand, seconds for some hundred thousand.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    known = context.environment(environment)
    found = ShadowReport(context.is_shadowing, await known.shadow.switches())
    found.waiting, found.problem = await known.shadow.progress(context.now_us)
    await _count_tenants(found, known, context.store)
    differing = await _read_answers(found, known)
    found.examples = [_example(topic, record) for _, topic, record in differing[:examples]]
    if found.compared or found.not_compared:
        _add_declared(found, context.catalog_watcher.current.shadow or DEFAULT)
    return found


async def _count_tenants(found: ShadowReport, known: Environment, store: Store) -> None:
    pauses, topics = Pauses(), sorted({topic async for topic in known.topics()})
    for start in range(0, len(topics), PAGE):
        batch = CommandPipeline(store)
        for topic in topics[start : start + PAGE]:
            batch.command("HMGET", store.keys.snap(topic), "version", "rev", "owner", "erased")
        for version, rev, owner, erased in await batch.run():
            if version is not None and erased is None:
                # A build that does not know the owner shows what it writes.
                is_seen = owner == BILLING.encode() or version != rev
                found.seen += is_seen
                found.unseen += not is_seen
        await pauses.due()


async def _read_answers(found: ShadowReport, known: Environment) -> list[tuple[int, str, dict[str, Any]]]:
    """Count the answers; return (negative time, topic, record) of the tenants that differ, the newest first."""
    pauses, seen = Pauses(), set[str]()
    differing: list[tuple[int, str, dict[str, Any]]] = []
    async for topic, record in known.shadow.records():
        await pauses.due()
        if topic in seen:
            continue
        seen.add(topic)
        if record["answer"] is None:
            found.absent += 1
        elif not record["compared"]:
            found.not_compared += 1
        else:
            found.compared += 1
        for name in record["compared"]:
            found.fields.setdefault(name, Field()).compared += 1
        for name, *_ in record["differences"]:
            found.fields[name].differing += 1
        if record["differences"]:
            found.differing += 1
            found.plans[record["plan"]] = found.plans.get(record["plan"], 0) + 1
            differing.append((-record["compared_us"], topic, record))
    return sorted(differing, key=lambda one: one[:2])


def _add_declared(found: ShadowReport, shadow: Shadow) -> None:
    """Add the fields of the catalog that no answer had: their paths may be wrong."""
    declared = shadow.fields if "fields" in shadow.model_fields_set else ()
    for name in declared:
        if name in shadow.ignore:
            continue
        if name not in found.fields and not any(each.startswith(f"{name}.") for each in found.fields):
            found.fields[name] = Field()


def _example(topic: str, record: Mapping[str, Any]) -> dict[str, Any]:
    answer = shown_answer(record)
    shown = {name: answer[name] for name in ("compared_at", "answered_at", "differences")}
    return {"topic": topic, "plan": record["plan"], **shown, **({} if record["is_known"] else {"is_known": False})}


def shown_answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of an answer, as it is shown: its times, whether there is one, and what differs."""
    return {
        "compared_at": instants.text(record["compared_us"] * 1000),
        "answered_at": instants.text(record["at_us"] * 1000),
        "is_absent": record["answer"] is None,
        "compared": record["compared"],
        "differences": [Difference(*one)._asdict() for one in record["differences"]],
    }
