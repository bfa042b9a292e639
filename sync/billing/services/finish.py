"""The last stage of `ingest`: what follows a commit, the topic's history, and the event's end in the inbox."""

from __future__ import annotations

from collections.abc import Callable

from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import ERASED_REASON, EventResult
from sync.billing.services.attempt import Done
from sync.billing.services.committer import Committer
from sync.billing.storage.environment import Environment
from sync.billing.storage.event_log import append_event, contains, query_events
from sync.billing.storage.provider_snapshots import record_snapshots
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store


class Finisher:
    """Ends events. One per process."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        environment: Callable[[str], Environment],
        now_ns: Callable[[], int],
    ) -> None:
        self._store = store
        self._committer = committer
        self._environment = environment
        self._now_ns = now_ns

    async def finish(self, done: Done) -> None:
        """End the event.

        Raises:
            StoreError: the store is unreachable or failing; the event stays pending.
        """
        event, result, known = done.event, done.result, self._environment(done.environment)
        is_noted_already = not done.is_first and await self._is_noted(event, result)
        batch = CommandPipeline(self._store)
        if result.reason == ERASED_REASON and isinstance(event, Event):
            known.count_erased(batch)
            if event.tenant_id is not None:  # it may name a subscription that was not known yet
                known.links.erase(batch, event.provider, event.tenant_id, event.subscription_id, event.customer_id)
        if done.commit is not None:
            self._committer.follow_up(batch, done.commit)
        if result.topic:
            self._record(batch, done, is_noted=is_noted_already)
        # Last, so that a failure before it leaves the event pending: then all of this is done again.
        batch.barrier()
        known.inbox.end(batch, event.event_id, result, again=done.rechecks_link)
        await batch.run()

    def _record(self, batch: CommandPipeline, done: Done, *, is_noted: bool) -> None:
        """Add to `batch` what is kept with the topic about a finished event."""
        event, result = done.event, done.result
        if done.answer.is_away and (done.commit is None or done.commit.decision.write is None):
            self._committer.want_reconcile(batch, result.topic)
        if done.answer.fetched is not None:
            record_snapshots(batch, result.topic, [done.answer.fetched])
        if not is_noted:
            append_event(batch, result.topic, event.event_id, event.type, result, self._now_ns() // 1000)

    async def _is_noted(self, event: Event | Unparsable, result: EventResult) -> bool:
        """Return whether an attempt that was cut off has written the result into the topic's history."""
        if not result.topic:
            return False
        batch = CommandPipeline(self._store)
        query_events(batch, result.topic)
        (reply,) = await batch.run()
        return contains(reply, event.event_id, result)
