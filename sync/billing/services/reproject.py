"""What time, catalog edits and the provider's own answers make of a topic: join, project again, commit what differs.

No event is needed and none is made; the cause of such a version says `timer`, `catalog`, `reconcile` and the like.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
import structlog

from planwire_client.core import canonical_json
from planwire_client.core.commit import BILLING
from sync.billing.domain import codec
from sync.billing.domain.decision import Decided, decide_without_event
from sync.billing.domain.drift import Drift
from sync.billing.domain.model import NOTHING, Event, Facts
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.domain.overrides import active_overrides
from sync.billing.services.ingest import CONFLICT_PAUSE_S, CONFLICTS_MAX, Pipeline
from sync.billing.storage.event_log import note
from sync.billing.storage.provider_snapshots import record_snapshots
from sync.billing.storage.tenant_facts import FactsError, facts_of
from sync.store.command_pipeline import Batch
from sync.store.store import Change, StoreError, Verdict

PUT_BACK = "the store lost its tail: the state was put back, its facts are older until the provider tells them anew"

_log = structlog.get_logger("sync.reprojection")


@dataclass(frozen=True, slots=True)
class Adopted:
    """What the provider's answers made of a topic: `before` and `after` are its facts, `wake_us` when to look again."""

    receipt: EventResult
    before: Facts
    after: Facts
    wake_us: int | None = None


class Reprojection:
    """Projects topics anew, with the store, catalog and clock of a pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def reproject(self, environment: str, topic: str, source: str) -> EventResult:
        """Return what the present catalog and instant make of a topic's facts: `applied` or `unchanged`.

        Facts that are missing, older than the topic's state or cannot be projected leave the topic as it is.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        adopted = await self.adopt(environment, topic, (), {"source": source}, holds=True)
        await self.arm(environment, topic, adopted)
        return adopted.receipt

    async def arm(self, environment: str, topic: str, adopted: Adopted) -> None:
        """Set the topic's timer to what came out.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if adopted.wake_us is not None:
            batch = Batch(self._pipeline.store)
            self._pipeline.environment(environment).timers.arm(batch, topic, adopted.wake_us)
            await batch.run()

    async def adopt(
        self,
        environment: str,
        topic: str,
        fetched: Sequence[Event],
        cause: Mapping[str, str],
        change: Callable[[Facts], Facts] | None = None,
        if_version: int | None = None,
        *,
        if_rev: int | None = None,
        arms: bool = True,
        holds: bool = False,
    ) -> Adopted:
        """Return what the fetched bodies, the present catalog and the present instant make of a topic, committed.

        `change` is what somebody does to the facts besides; it may be called more than once, and what it raises goes
        through. Facts that are missing (and not told by `fetched` or `change`), or cannot be projected, leave the topic
        as it is; then the receipt has a reason. With `if_version` or `if_rev` a topic at another one is left too:
        `conflict`.
        Callers `arm` the timer after it; only whoever holds the timer's lease has it not armed before the commit.
        `holds`: a state that was put back is left too, until a comparison or an event has told its facts anew.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if fetched:
            batch = Batch(self._pipeline.store)
            record_snapshots(batch, topic, fetched)
            await batch.run()
        async with self._pipeline.turns.of(topic):
            catalog = self._pipeline.catalog_watcher.current
            for _ in range(CONFLICTS_MAX):
                snapshot = await self._pipeline.store.read(topic)
                if if_version not in (None, snapshot.version) or if_rev not in (None, snapshot.rev):
                    return Adopted(EventResult(Outcome.CONFLICT, version=snapshot.version), NOTHING, NOTHING)
                try:
                    before = facts_of(snapshot)
                except FactsError as error:
                    result = EventResult(Outcome.UNCHANGED, str(error), version=snapshot.version)
                    return Adopted(result, NOTHING, NOTHING)
                decided = decide_without_event(
                    topic,
                    before,
                    fetched,
                    change or _same,
                    catalog,
                    environment,
                    self._pipeline.now_ns(),
                    is_known=bool(snapshot.private),
                )
                if not isinstance(decided, Decided):
                    if decided.reason.startswith("unknown price"):
                        _log.error("state_held", topic=topic, reason=decided.reason)
                    return Adopted(replace(decided, version=snapshot.version), before, before)
                after, projected, refused, missed = decided.facts, decided.projected, decided.note, decided.missed
                state = canonical_json.encode(projected.state)
                private = snapshot.private if after == before else codec.encode(after)
                wake_us = self._pipeline.wake_us(environment, projected, after)
                is_same = state == snapshot.state and private == snapshot.private
                # What was fetched makes a topic whole even where it tells nothing new: that has to be committed.
                put_back = (fetched if is_same else holds) and await self._is_put_back(topic)
                if put_back and not fetched:
                    _log.error("state_held", topic=topic, reason=PUT_BACK)
                    return Adopted(
                        EventResult(Outcome.UNCHANGED, PUT_BACK, version=snapshot.version), before, before, wake_us
                    )
                if is_same and not put_back:
                    return Adopted(
                        EventResult(Outcome.UNCHANGED, refused, version=snapshot.version), before, before, wake_us
                    )
                await self._foreseen(environment, topic, wake_us if arms else None, is_new=not snapshot.private)
                committed = await self._pipeline.store.commit(
                    Change(
                        topic,
                        state,
                        private,
                        if_rev=snapshot.rev,
                        cause=orjson.dumps({**cause, **active_overrides(after, self._pipeline.now_ns())}),
                        previous=snapshot,
                        owner=BILLING,
                    )
                )
                if committed.verdict is not Verdict.CONFLICT:
                    receipt = EventResult(Outcome(committed.verdict.value), refused, version=committed.version)
                    await self._noted(environment, topic, cause, receipt, missed)
                    return Adopted(receipt, before, after, wake_us)
                await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
        raise StoreError(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")

    async def _is_put_back(self, topic: str) -> bool:
        """Whether a gateway has put the topic's state back, and nobody its facts: restore.lua leaves it no digest."""
        batch = Batch(self._pipeline.store)
        batch.command("HGET", batch.keys.snap(topic), "digest")
        (digest,) = await batch.run()
        return bool(digest == b"")

    async def _foreseen(self, environment: str, topic: str, wake_us: int | None, *, is_new: bool) -> None:
        """Set timer and lists before the commit that calls for them: after it, a crash would leave the topic without.

        A timer or an audit too many costs a look.
        """
        known, batch = self._pipeline.environment(environment), Batch(self._pipeline.store)
        if wake_us is not None:
            known.timers.arm(batch, topic, wake_us)
        if is_new:
            known.enlist(batch, topic, self._pipeline.now_ns() // 1000)
        await batch.run()

    async def _noted(
        self, environment: str, topic: str, cause: Mapping[str, str], receipt: EventResult, missed: Drift | None
    ) -> None:
        batch = Batch(self._pipeline.store)
        now_us = self._pipeline.now_ns() // 1000
        note(batch, topic, "", cause.get("event_type", cause["source"]), receipt, now_us)
        if missed is not None:
            drift = replace(missed, version=receipt.version)
            self._pipeline.environment(environment).drifts.add(batch, drift)
        await batch.run()


def _same(facts: Facts) -> Facts:
    return facts
