"""Switches tenants, so that readers see what billing computes of them, and back.

A switch is one commit, in which the two states of a tenant change places (`storage.tenants`); so is a switch back.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from planwire_client.core import canonical_json
from sync.billing.domain.decision import Decided, decide_without_event
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.services.committer import Committer, Decision, Write
from sync.billing.services.context import BillingContext
from sync.billing.storage.tenants import billed, has_facts, is_shadow, tenant_of
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot

SWITCHED, SWITCHED_BACK = "shadow.switched", "shadow.switched_back"
"""The types of the versions that a switch makes."""

UNKNOWN = "billing does not know it yet: the switch is of use with its first event"
"""The reason of a switch that changes nothing now."""

PAGE = 200
"""Tenants queued at a time."""


class ShadowSwitches:
    """The switches of one store."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._committer = committer

    async def switch(self, environment: str, topic: str, who: Mapping[str, str], *, on: bool) -> EventResult:
        """Switch a tenant, or switch it back; return `applied`, or `unchanged` if pages see the same as before.

        A tenant that billing does not know yet is switched for its first event.

        Raises:
            FactsError: the tenant's facts cannot be read.
            StoreError: the store is unreachable or failing; a repeated call completes the switch.
        """
        await self._context.environment(environment).shadow.switch_tenant(topic, self._context.now_us, on=on)
        return await self.bring(environment, topic, who, is_named=True)

    async def switch_share(self, environment: str, share: float, who: Mapping[str, str], *, clears: bool) -> int:
        """Switch a share of the tenants, 0 to 1, and the others back; return how many tenants a worker looks at now.

        Args:
            share: from 0 to 1.
            who: goes into the causes of the versions that the switch makes.
            clears: whether the tenants that were switched by name follow the share, too.

        Raises:
            StoreError: the store is unreachable or failing; a repeated call completes the switch.
        """
        known = self._context.environment(environment)
        await known.shadow.switch_share(share, who, clears=clears)
        waiting = sorted({topic async for topic in known.topics()})
        for start in range(0, len(waiting), PAGE):
            batch = CommandPipeline(self._context.store)
            for topic in waiting[start : start + PAGE]:
                known.shadow.switching.schedule_earlier(batch, topic, self._context.now_us)
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
        on, by = await self._context.environment(environment).shadow.switched_by(topic)
        what = SWITCHED if on else SWITCHED_BACK
        cause = orjson.dumps({"source": "operator", "event_type": what, **(who or by)})

        def decide(snapshot: Snapshot) -> Decision:
            is_there = not is_shadow(snapshot) if on else is_shadow(snapshot)
            is_spared = not on and not snapshot.beside and not is_named
            if snapshot.erased or not has_facts(snapshot) or is_there or is_spared:
                reason = ERASED_REASON if snapshot.erased else "" if has_facts(snapshot) else UNKNOWN
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
