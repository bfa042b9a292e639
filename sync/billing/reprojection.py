"""What time and catalog edits make of facts that no event has changed: project again, commit what differs.

No event is needed and none is made; the cause of such a version says `timer` or `catalog`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import orjson
import structlog

from sync.billing.batch import Batch
from sync.billing.inbox import Ending
from sync.billing.pipeline import (
    CONFLICT_PAUSE_S,
    CONFLICTS_MAX,
    FactsError,
    Pipeline,
    Receipt,
    due_us,
    facts_of,
    note,
)
from sync.billing.projection import Unprojectable, project
from sync.billing.timers import Due
from sync.state import canonical
from sync.state.store import Change, StoreError, Verdict

_log = structlog.get_logger("sync.reprojection")


class Reprojection:
    """Projects topics anew, with the store, catalog and clock of a pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def fire(self, environment: str, due: Due) -> Receipt:
        """Return what time made of a topic whose timer the caller has claimed, and set the timer anew.

        Raises:
            StoreError: the store is unreachable or failing; the timer fires again when its lease has run out.
        """
        timers = self._pipeline.environment(environment).timers
        receipt, next_us = await self._reproject(environment, due.topic, {"source": "timer", "event_type": "due"})
        batch = Batch(self._pipeline.store.redis)
        timers.settle(batch, due, next_us)
        await batch.run()
        # Another writer's `arm` between our read and our settling may have had no effect: look once more.
        (version,) = await self._pipeline.store.versions([due.topic])
        if version != receipt.version:
            batch = Batch(self._pipeline.store.redis)
            timers.arm(batch, due.topic, self._pipeline.now_ns() // 1000)
            await batch.run()
        return receipt

    async def reproject(self, environment: str, topic: str, source: str) -> Receipt:
        """Return what the present catalog and instant make of a topic's facts: `applied` or `unchanged`.

        Facts that are missing or cannot be projected leave the topic as it is.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        receipt, next_us = await self._reproject(environment, topic, {"source": source})
        if next_us is not None:
            batch = Batch(self._pipeline.store.redis)
            self._pipeline.environment(environment).timers.arm(batch, topic, next_us)
            await batch.run()
        return receipt

    async def _reproject(self, environment: str, topic: str, cause: Mapping[str, str]) -> tuple[Receipt, int | None]:
        catalog = self._pipeline.shelf.current
        async with self._pipeline.turns.of(topic):
            for _ in range(CONFLICTS_MAX):
                snapshot = await self._pipeline.store.read(topic)
                if not snapshot.private:
                    # Somebody published it, or the store lost the facts: there is nothing to project.
                    return Receipt("unchanged", snapshot.version), None
                try:
                    projected = project(facts_of(snapshot), catalog, environment, self._pipeline.now_ns())
                except FactsError as error:
                    return Receipt("unchanged", snapshot.version, str(error)), None
                if isinstance(projected, Unprojectable):
                    reason = f"unknown price {', '.join(projected.price_ids)}"
                    _log.error("state_held", topic=topic, reason=reason)
                    return Receipt("unchanged", snapshot.version, reason), None
                state = canonical.encode(projected.state)
                if state == snapshot.state:
                    return Receipt("unchanged", snapshot.version), due_us(projected.valid_until_ns)
                committed = await self._pipeline.store.commit(
                    Change(
                        topic,
                        state,
                        snapshot.private,
                        if_version=snapshot.version,
                        cause=orjson.dumps(cause),
                        previous=snapshot,
                    )
                )
                if committed.verdict is not Verdict.CONFLICT:
                    receipt = Receipt(committed.verdict.value, committed.version)
                    await self._noted(topic, cause, receipt)
                    return receipt, due_us(projected.valid_until_ns)
                await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
        raise StoreError(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")

    async def _noted(self, topic: str, cause: Mapping[str, str], receipt: Receipt) -> None:
        batch = Batch(self._pipeline.store.redis)
        note(batch, topic, "", cause["source"], Ending(receipt.outcome), self._pipeline.now_ns() // 1000)
        await batch.run()
