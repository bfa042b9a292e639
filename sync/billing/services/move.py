"""Moves a subscription to the tenant that it belongs to: flips its link, gives it to the one, takes it from the other.

The two tenants are in two slots, so both have the subscription between the two commits: a round trip, or until another
process repeats the move after a crash. Every step is idempotent. The link says what is left to do (`Link.left`), and
whoever meets it completes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from planwire_client.core.topic import Topic
from sync.billing.domain.decision import ChangeFacts
from sync.billing.domain.facts.customers import PARKED_BY_POLICY, second_customer_note, vouched_for
from sync.billing.domain.facts.model import NOTHING, Event, Facts, SubscriptionFacts
from sync.billing.domain.facts.moves import ChangedSinceError, given, joined, taken
from sync.billing.domain.outcome import ERASED, ERASED_REASON, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    VOUCHING,
    Link,
    SubscriptionRef,
    is_vouched,
    strongest,
    with_learned,
)
from sync.billing.services.committer import CONFLICTS_MAX, Commit, Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.services.reproject import Refresh, decide_refresh
from sync.billing.storage.customers import move_customer
from sync.billing.storage.links import end_moves, flip, read_all_stored, read_stored
from sync.billing.storage.records import append_event, who_and_why
from sync.billing.storage.tenants import FactsError, known_facts
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import StoreError

MOVED_TYPE = "subscription.moved"
"""The `event_type` in the causes and histories of a move."""

VOUCHED_TYPE = "subscription.vouched"
"""That of a subscription whose tenant a signed reference or an operator has confirmed."""


def move_cause(event: Event) -> dict[str, str]:
    """Return the cause of the versions that a move makes which an event leads to."""
    return {"source": event.provider, "event_id": event.event_id, "event_type": MOVED_TYPE}


class Moves:
    """Moves the subscriptions of one store."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._store = context.store
        self._committer = committer

    async def move(self, ref: SubscriptionRef, link: Link, cause: Mapping[str, str]) -> Link | EventResult:
        """Move a subscription to the tenant of its strongest name, and complete its earlier moves; return its link.

        Returns a parked result if the policy forbids the move, or if one of the tenants cannot be projected now: then
        the next call completes it. The link stays as it is if the named tenant is erased.

        Args:
            link: the subscription's link.
            cause: `source`, and where they apply `event_id` and others: of the versions that the move makes.

        Raises:
            StoreError: the store is unreachable or failing; a repeated call completes the move.
        """
        for _ in range(CONFLICTS_MAX):
            name = strongest(link)
            if link.tenant_id == TOMBSTONE or name is None:
                return link
            rejected = None
            if name[1] != link.tenant_id:
                rejected = await self._rejected(ref, link, name[1], is_sure=name[0] in VOUCHING)
                if rejected is None:
                    await flip(self._store, ref, link, name[1])
                    link = await self._reread(ref, link)
                    continue
            if not link.left:
                return rejected if rejected is not None and rejected.outcome is Outcome.PARKED else link
            transferred = await self._transfer(ref, link, cause)
            if isinstance(transferred, EventResult):
                return transferred
            link = transferred
        raise StoreError(f"{ref.key}: {CONFLICTS_MAX} moves in a row came in between")

    async def vouch(self, ref: SubscriptionRef, link: Link, cause: Mapping[str, str]) -> EventResult | None:
        """Store that a signed reference or an operator has given a subscription to its tenant.

        Returns `applied`, or None if that is known already, or is not so.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if link.tenant_id is None or not is_vouched(link):
            return None
        refresh = Refresh({**cause, "event_type": VOUCHED_TYPE}, change=partial(vouched_for, key=ref.key))
        commit = await self._commit(ref, ref.topic(link.tenant_id), refresh)
        await self._committer.record(commit, VOUCHED_TYPE)
        return None if commit.decision.write is None else commit.result

    async def check(self, topic: str, entries: Iterable[SubscriptionFacts], cause: Mapping[str, str]) -> bool:
        """Move those of a tenant's subscriptions that belong to another tenant; return whether there was one.

        Moves that are not complete are completed.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        environment, tenant_id = Topic.parse(topic).env, Topic.parse(topic).id
        refs = [SubscriptionRef(environment, entry.provider, entry.subscription.id) for entry in entries]
        links = await read_all_stored(self._store, refs)
        is_any = False
        for ref, link in zip(refs, links, strict=True):
            if link.tenant_id not in (None, TOMBSTONE, tenant_id):
                # Older builds left it with two tenants. 1: later than never, and before every move.
                link = replace(link, left={link.moved_us: tenant_id, **link.left}, moved_us=link.moved_us or 1)
            if link.left:
                await self.move(ref, link, cause)
                is_any = True
        return is_any

    async def _transfer(self, ref: SubscriptionRef, link: Link, cause: Mapping[str, str]) -> Link | EventResult:
        """Give the subscription to its tenant, and take it from those that it has left; return its link afterwards."""
        for _ in range(CONFLICTS_MAX):
            entry, changes = await self._changes(ref, link)
            commits: list[Commit] = []
            try:
                for topic, change in changes.items():
                    commit = await self._commit(ref, topic, Refresh(cause, change=change))
                    after = commit.decision.after
                    known = after.subscriptions.get(ref.key)
                    is_overtaken = after.moved.get(ref.key, 0) > link.moved_us
                    is_given = is_overtaken or (known is not None and known.moved_us >= link.moved_us)
                    is_done = is_given or (known is None if commits else entry is None)
                    if not is_done and commit.result.reason != ERASED_REASON:
                        return _blocked(commit)
                    commits.append(commit)
            except ChangedSinceError:
                continue
            await self._record(ref, link, commits, cause)
            return await self._reread(ref, link)
        raise StoreError(f"{ref.key}: it changes faster than it can be moved")

    async def _changes(
        self, ref: SubscriptionRef, link: Link
    ) -> tuple[SubscriptionFacts | None, Mapping[str, ChangeFacts]]:
        """Return what the tenants that were left know of it, and the change of each topic, that of its tenant first."""
        home = ref.topic(str(link.tenant_id))
        sources = sorted({ref.topic(tenant) for tenant in link.left.values()} - {home})
        found = {topic: known_facts(await self._committer.read(topic)) for topic in sources}
        was = {topic: facts.subscriptions.get(ref.key) for topic, facts in found.items() if facts is not None}
        entry: SubscriptionFacts | None = None
        for each in was.values():
            entry = joined(entry, each)
        scheduled = {
            change.app: change
            for facts in reversed(found.values())
            for change in (() if facts is None else facts.scheduled_changes)
            if change.subscription == ref.key
        }
        changes_of_key = tuple(scheduled.values())
        key, moved_us = ref.key, link.moved_us
        changes: dict[str, ChangeFacts] = {
            home: partial(
                given, key=key, entry=entry, changes=changes_of_key, moved_us=moved_us, is_vouched=is_vouched(link)
            )
        }
        for topic, each in was.items():
            changes[topic] = partial(taken, key=key, was=each, moved_us=moved_us)
        return entry, changes

    async def _commit(self, ref: SubscriptionRef, topic: str, refresh: Refresh) -> Commit:
        setting = self._context.setting(ref.environment)
        try:
            return await self._committer.commit(topic, lambda snapshot: decide_refresh(snapshot, refresh, setting))
        except FactsError as error:
            result = EventResult(Outcome.UNCHANGED, str(error), topic)
            return Commit(topic, result, Decision(result))

    async def _record(self, ref: SubscriptionRef, link: Link, commits: list[Commit], cause: Mapping[str, str]) -> None:
        """Write what follows the commits of a move: timers, both histories, the customer's tenant, the end of the move.

        Once each, even if a repeated call writes it again.
        """
        batch, key, event_id = CommandPipeline(self._store), ref.key, cause.get("event_id", "")
        about = who_and_why(cause)  # an ended subscription makes no version that has the cause
        left_us = {ref.topic(tenant): at_us for at_us, tenant in sorted(link.left.items())}
        here, *others = commits
        entry = here.decision.after.subscriptions.get(key)
        is_given = entry is not None and entry.moved_us == link.moved_us
        for commit in commits:
            self._committer.follow_up(batch, commit)
        for commit in others:
            if commit.decision.after.moved.get(key) == link.moved_us:
                what = _dropped_change(key, commit, here) + about
                result = EventResult(Outcome.APPLIED, f"{ref.subscription_id} moved to {here.topic}{what}")
                append_event(batch, commit.topic, event_id, MOVED_TYPE, result, link.moved_us)
                if is_given:
                    reason = f"{ref.subscription_id} moved here from {commit.topic}{what}"
                    result = EventResult(Outcome.APPLIED, reason)
                    # Each at a time of its own, or the second would count as a repetition of the first.
                    append_event(batch, here.topic, event_id, MOVED_TYPE, result, left_us[commit.topic])
        if entry is not None and entry.subscription.customer_id is not None:
            customer = entry.subscription.customer_id
            move_customer(batch, ref, customer, link)
        batch.barrier()
        end_moves(batch, ref, link)
        await batch.run()

    async def _reread(self, ref: SubscriptionRef, link: Link) -> Link:
        """Return the link as it is stored now; what `link` says of the event stays."""
        now = await read_stored(self._store, ref)
        left = now.left
        if now.moved_us > link.moved_us and link.left and link.tenant_id is not None:
            # It was moved on meanwhile, perhaps before it was given to the tenant of this move.
            left = {now.moved_us: link.tenant_id, **left}
        return replace(with_learned(now, link), left=left)

    async def _rejected(self, ref: SubscriptionRef, link: Link, tenant_id: str, *, is_sure: bool) -> EventResult | None:
        """Return why a subscription stays where it is: the named tenant is erased, or not its customer's by the policy.

        Args:
            is_sure: whether the policy on second customers does not apply.
        """
        facts = await self._facts(ref, tenant_id)
        if facts.erased_ns is not None:
            return ERASED
        if is_sure or link.tenant_id is None or self._context.catalog_watcher.current.policy.second_customer != "park":
            return None
        entry = (await self._facts(ref, link.tenant_id)).subscriptions.get(ref.key)
        after = given(facts, ref.key, entry, (), self._context.now_us)
        note = "" if entry is None else second_customer_note(after, ref.key)
        if not note:
            return None
        reason = f"{note}; {PARKED_BY_POLICY}"
        return EventResult(Outcome.PARKED, reason, waits=(ref.link_subject, WAITS_CATALOG))

    async def _facts(self, ref: SubscriptionRef, tenant_id: str) -> Facts:
        return known_facts(await self._committer.read(ref.topic(tenant_id))) or NOTHING


def _dropped_change(key: str, left: Commit, here: Commit) -> str:
    """Return the clause about the moved subscription's scheduled change if its new tenant has another one; else ""."""
    kept = {change.app: change.subscription for change in here.decision.after.scheduled_changes}
    return "".join(
        [
            f"; its scheduled change to {change.plan} is dropped: {here.topic} has one of {kept[change.app]}"
            for change in left.decision.before.scheduled_changes
            if change.subscription == key and kept.get(change.app, key) != key
        ]
    )


def _blocked(commit: Commit) -> EventResult:
    """Return the parked result of a step of a move that cannot be committed now."""
    result = commit.result
    return EventResult(Outcome.PARKED, result.reason, commit.topic, result.version, result.waits or (WAITS_SOFTWARE,))
