"""Resolves the tenant of an event: guesses where nothing names it, and moves what belongs to another one."""

from __future__ import annotations

from sync.billing.domain import tenant_resolution
from sync.billing.domain.entitlements.evaluation import without_ignored_names
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.domain.tenant_naming import sanitize
from sync.billing.domain.tenant_resolution import Link, Strength
from sync.billing.providers.base import ProviderUnavailable
from sync.billing.services.context import BillingContext
from sync.billing.services.events.attempt import Attempt, Processed
from sync.billing.services.events.fetch import AWAY, UNFETCHED_AGAIN_S, named_by_customer
from sync.billing.services.move import Moves, Subject, move_cause
from sync.billing.storage.links import customers_tenants, find_link, flip, move_customer, read_stored
from sync.billing.storage.tenants import known_facts
from sync.store.command_pipeline import CommandPipeline


class TenantResolver:
    """Resolves the tenants of events of one store. Every method may raise StoreError, and is idempotent."""

    def __init__(self, context: BillingContext, moves: Moves) -> None:
        self._context = context
        self._store = context.store
        self._moves = moves

    async def resolve(self, attempt: Attempt) -> Attempt | Processed:
        """Return the attempt with its topic and link, or the end of an event without a usable tenant."""
        event, link = attempt.event, attempt.link
        if link is None:
            return attempt.ended(await self._unlinked(event))
        fetched, catalog = attempt.answer and attempt.answer.fetched, self._context.catalog_watcher.current
        try:
            resolved = await self.owner(event, link, move_cause(event), fetched)
        except ProviderUnavailable:
            return attempt.ended(EventResult(Outcome.PARKED, AWAY))._replace(retry_s=UNFETCHED_AGAIN_S)
        if isinstance(resolved, EventResult):
            return attempt.ended(resolved)._replace(rechecks_link=link.tenant_id is None, catalog=catalog)
        topic = self._topic(event, resolved)
        is_as_read = resolved.revision == link.revision and not link.left
        snapshot = attempt.snapshot if is_as_read and attempt.snapshot and attempt.snapshot.topic == topic else None
        event = tenant_resolution.vouched(event, resolved)
        attempt = attempt._replace(event=event, topic=topic, link=resolved, snapshot=snapshot)
        if event.subscription is not None:
            return attempt
        if link.tenant_id != resolved.tenant_id:
            (version,) = await self._store.versions([attempt.topic])
            reason = f"{event.subscription_id} is moved from tenant {link.tenant_id}: {event.type[:60]} names it"
            return attempt.ended(EventResult(Outcome.APPLIED, reason, attempt.topic, version))
        if event.is_signed:
            result = await self._moves.vouch(Subject.of(event), resolved, move_cause(event))
            if result is not None:
                return attempt.ended(result)
        outcome = Outcome.UNCHANGED if resolved.learned_subscription else Outcome.IGNORED
        return attempt.ended(EventResult(outcome, event.ignored))

    async def owner(
        self,
        event: Event,
        link: Link,
        cause: dict[str, str],
        fetched: Event | None = None,
        *,
        background: bool = False,
    ) -> Link | EventResult:
        """Return the link of the event's subscription, which is where it belongs then; or why it has no tenant.

        Args:
            link: the subscription's link, with the name that the event gives.
            cause: of the versions that a move makes.
            fetched: the provider's answer about the subscription, which may name a tenant too.
            background: whether nobody waits for the provider's answer about the customer.

        Raises:
            ProviderUnavailable: nothing names a tenant, and the provider did not answer about the customer.
        """
        subject = Subject.of(event)
        if fetched is not None:
            link = await self._with_name(link, fetched)
        if link.tenant_id is None:
            event = await named_by_customer(self._context, event, background=background)
            link = await self._with_name(link, event)
        candidates: list[str] = []
        if link.tenant_id is None:
            candidates = await customers_tenants(self._store, event)
            link = await self._guessed(subject, link, candidates)
        result = tenant_resolution.unresolved(event, link, self._context.setting(event.environment), candidates)
        if result is not None:
            return result
        settled = await self._moves.settle(subject, link, cause)
        if isinstance(settled, Link) and event.customer_id and link.customers_tenant not in (None, settled.tenant_id):
            batch = CommandPipeline(self._store)
            move_customer(batch, *_parts(subject), event.customer_id, settled)
            await batch.run()
        return settled

    async def home(self, event: Event, topic: str) -> tuple[str, Event]:
        """Return the topic to which a fetched subscription of a tenant belongs; it is moved there if it was not.

        The event is returned with what its link vouches for.

        Args:
            topic: the tenant's topic; also returned if the subscription's tenant is not known for sure.
        """
        event = without_ignored_names(sanitize(event, self._context.naming), self._context.setting(event.environment))
        link = await find_link(self._store, event)
        if link is None or link.tenant_id is None:
            return topic, event
        resolved = await self.owner(event, link, move_cause(event))
        if isinstance(resolved, EventResult):
            return topic, event
        return self._topic(event, resolved), tenant_resolution.vouched(event, resolved)

    async def is_known(self, event: Event) -> bool:
        """Return whether a tenant is known for an event that was without one."""
        link = await find_link(self._store, event)
        if link is None or link.tenant_id is not None:
            return link is not None
        return len(await customers_tenants(self._store, event)) == 1

    async def _unlinked(self, event: Event) -> EventResult:
        """Return the result of an event that needs no tenant, or of a checkout whose name is not accepted."""
        if event.subscription_id is None or not event.name_problem:
            return EventResult(Outcome.IGNORED, event.ignored)
        subject = Subject.of(event)
        link = await read_stored(self._store, subject.environment, subject.link_subject)
        return tenant_resolution.unresolved(event, link, self._context.setting(event.environment)) or EventResult(
            Outcome.IGNORED, event.name_problem
        )

    async def _with_name(self, link: Link, fetched: Event) -> Link:
        """Return the link with the name that the provider's answer gives."""
        name = tenant_resolution.name_in(fetched)
        if name is None or link.names.get(name.strength) == name.tenant_id:
            return link
        named = await find_link(self._store, fetched)
        assert named is not None
        return tenant_resolution.with_learned(named, link)

    async def _guessed(self, subject: Subject, link: Link, candidates: list[str]) -> Link:
        """Return the link with a guess: the customer's only tenant, or the only one that has the subscription."""
        if len(candidates) > 1:
            # Older builds did not store their guesses.
            candidates = [tenant for tenant in candidates if await self._has(subject, tenant)]
        while link.tenant_id is None and len(candidates) == 1:
            await flip(self._store, subject.environment, subject.link_subject, link, candidates[0], Strength.GUESS)
            link = await read_stored(self._store, subject.environment, subject.link_subject)
        return link

    async def _has(self, subject: Subject, tenant_id: str) -> bool:
        facts = known_facts(await self._store.read(subject.topic(tenant_id)))
        return facts is not None and subject.key in facts.subscriptions

    def _topic(self, event: Event, link: Link) -> str:
        """Return the topic of the event: its subscription's, or an erased tenant's that it names."""
        name = tenant_resolution.strongest(link)
        is_erased = name is not None and name[1] == event.tenant_id != link.tenant_id
        tenant_id = event.tenant_id if is_erased and not tenant_resolution.is_ending(event) else link.tenant_id
        return tenant_resolution.tenant_topic(event.environment, str(tenant_id))


def _parts(subject: Subject) -> tuple[str, str, str]:
    return subject.environment, subject.provider, subject.subscription_id
