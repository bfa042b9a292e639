"""Resolves the tenant of an event: guesses where nothing names it, and moves what belongs to another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sync.billing.domain import tenant_resolution
from sync.billing.domain.facts.model import PAID_STATUSES, Event, Facts
from sync.billing.domain.outcome import OTHER_ACCOUNT, EventResult, Outcome
from sync.billing.domain.refund_decision import of_unknown_payment
from sync.billing.domain.tenant_resolution import TOMBSTONE, Link, Strength, SubscriptionRef
from sync.billing.providers.base import ProviderUnavailable
from sync.billing.services.context import BillingContext
from sync.billing.services.events.attempt import Attempt, Processed
from sync.billing.services.events.fetch import AWAY, UNFETCHED_AGAIN_S, named_by_customer
from sync.billing.services.events.payers import Payers
from sync.billing.services.move import Moves, move_cause
from sync.billing.storage.customers import Customer, move_customer, read_customer
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.links import find_link, flip, name_subscriptions, read_stored, with_name
from sync.billing.storage.tenants import known_facts
from sync.store.command_pipeline import CommandPipeline


class TenantResolver:
    """Resolves the tenants of events of one store. Every method may raise StoreError, and is idempotent.

    Attributes:
        payers: tells what payments were for.
    """

    def __init__(self, context: BillingContext, moves: Moves) -> None:
        self._context = context
        self._store = context.store
        self._moves = moves
        self.payers = Payers(context)

    async def resolve(self, attempt: Attempt) -> Attempt | Processed:
        """Return the attempt with its topic and link, or the end of an event without a usable tenant."""
        event, link = attempt.event, attempt.link
        if link is None:
            if event.live_subscriptions is not None:
                await self._compare_ended(event, event.live_subscriptions)
            is_customer = tenant_resolution.is_about_customer(event)
            return attempt.ended(await (self._name_subscriptions(event) if is_customer else self._unlinked(event)))
        if event.refund is not None and link.tenant_id is None:
            try:
                event, link = await self.payers.refunded(event, link)
            except ProviderUnavailable:
                return attempt.ended(EventResult(Outcome.PARKED, AWAY))._replace(retry_s=UNFETCHED_AGAIN_S)
            attempt = attempt._replace(event=event, link=link)
        if event.refund is not None and link.tenant_id is None:
            setting = self._context.setting(event.environment, attempt.catalog)
            return attempt.ended(of_unknown_payment(event, setting))._replace(rechecks_link=True)
        fetched = attempt.answer and attempt.answer.fetched
        try:
            resolved = await self.owner(event, link, move_cause(event), fetched)
        except ProviderUnavailable:
            return attempt.ended(EventResult(Outcome.PARKED, AWAY))._replace(retry_s=UNFETCHED_AGAIN_S)
        if isinstance(resolved, EventResult):
            return attempt.ended(resolved)._replace(rechecks_link=link.tenant_id is None)
        topic = self._topic(event, resolved)
        is_as_read = resolved.revision == link.revision and not link.left
        snapshot = attempt.snapshot if is_as_read and attempt.snapshot and attempt.snapshot.topic == topic else None
        event = tenant_resolution.vouched(event, resolved)
        attempt = attempt._replace(event=event, topic=topic, link=resolved, snapshot=snapshot)
        if event.subscription is not None or event.refund is not None:
            return attempt
        if link.tenant_id != resolved.tenant_id:
            (version,) = await self._store.versions([attempt.topic])
            reason = f"{event.subscription_id} is moved from tenant {link.tenant_id}: {event.type[:60]} names it"
            return attempt.ended(EventResult(Outcome.APPLIED, reason, attempt.topic, version))
        if event.is_signed:
            result = await self._moves.vouch(SubscriptionRef.of(event), resolved, move_cause(event))
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
        ref = SubscriptionRef.of(event)
        if fetched is not None:
            link = await self._with_name(link, replace(fetched, event_id=event.event_id))
        if link.tenant_id is None:
            event = await named_by_customer(self._context, event, background=background)
            link = await self._with_name(link, event)
        customer, name, own = Customer(), tenant_resolution.strongest(link), tenant_resolution.name_in(event)
        is_by_customer = own is not None and own.strength in (Strength.SIGNED_CUSTOMER, Strength.CUSTOMER)
        if link.tenant_id is None or is_by_customer or (name is not None and name[0] is Strength.ENDING):
            customer = await read_customer(self._store, event)
            link = await self._named_by(event, link, customer)
        if link.tenant_id is None:
            link = await self._guessed(event, link, await self.payers.candidates(event) or customer.tenants)
        if link.tenant_id in (None, TOMBSTONE):
            setting = self._context.setting(event.environment)
            result = tenant_resolution.unresolved(event, link, setting, customer.tenants)
            if result is not None:
                return result
        return await self._moved(event, ref, link, cause)

    async def home(self, event: Event, topic: str, *, guesses: bool = False) -> tuple[str, Event]:
        """Return the topic to which a fetched subscription of a tenant belongs; it is moved there if it was not.

        The event is returned with what its link vouches for; a refund as that of what its payment was for.

        Args:
            topic: the tenant's topic; also returned if the subscription's tenant is not known for sure.
            guesses: whether the customer's only tenant counts, as for a webhook.
        """
        event = self._context.named(event)
        link = await find_link(self._store, event)
        if link is not None and link.tenant_id is None and event.refund is not None and guesses:
            event, link = await self.payers.refunded(event, link, background=True)
        if link is None or (link.tenant_id is None and (event.refund is not None or not guesses)):
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
        if event.refund is not None:
            # A refund goes where its payment is, whatever else its customer pays for.
            return (await self.payers.of_customers_subscription(event, link))[1].tenant_id is not None
        customer = await read_customer(self._store, event)
        return bool(customer.names) or len(customer.tenants) == 1

    async def _unlinked(self, event: Event) -> EventResult:
        """Return the result of an event that needs no tenant, or of a checkout whose name is not accepted."""
        if event.subscription_id is None or not event.name_problem:
            # The body of another merchant's event is not for us to keep.
            return EventResult(Outcome.IGNORED, event.ignored, keeps_body=not event.ignored.startswith(OTHER_ACCOUNT))
        ref = SubscriptionRef.of(event)
        link = await read_stored(self._store, ref)
        return tenant_resolution.unresolved(event, link, self._context.setting(event.environment)) or EventResult(
            Outcome.IGNORED, event.name_problem
        )

    async def _compare_ended(self, event: Event, live: frozenset[str]) -> None:
        """Request a comparison of the tenants for which the event's customer pays by a subscription that is not live.

        What has become of such a subscription, only the provider can say.
        """
        if (event.provider, event.environment) not in self._context.clients:
            return
        customer = await read_customer(self._store, event)
        topics = [tenant_resolution.tenant_topic(event.environment, tenant) for tenant in customer.tenants]
        ended = [topic for topic in topics if _has_other(known_facts(await self._store.read(topic)), event, live)]
        if ended:
            batch = CommandPipeline(self._store)
            reconcile_requests(self._store).request(batch, ended)
            await batch.run()

    async def _with_name(self, link: Link, event: Event) -> Link:
        """Return the link with the name that the event gives, with its id and what the provider answered."""
        name = tenant_resolution.name_in(event)
        return link if name is None else await with_name(self._store, event, link, name)

    async def _name_subscriptions(self, event: Event) -> EventResult:
        """Name a customer's subscriptions by its metadata, and move those that nothing stronger names."""
        results: list[EventResult] = []
        links = await name_subscriptions(self._store, event, await read_customer(self._store, event))
        for subscription_id, link in links.items():
            if link.tenant_id == TOMBSTONE:
                continue
            ref, cause = SubscriptionRef(event.environment, event.provider, subscription_id), move_cause(event)
            moved = await self._moved(event, ref, link, cause)
            if isinstance(moved, EventResult):
                results.append(moved)
                continue
            await self._moves.vouch(ref, moved, cause)
            if moved.tenant_id != link.tenant_id:
                reason = f"{subscription_id} is moved from tenant {link.tenant_id}: {event.type[:60]} names it"
                results.append(EventResult(Outcome.APPLIED, reason))
        parked = [result for result in results if result.outcome is Outcome.PARKED]
        return next(iter(parked or results), EventResult(Outcome.UNCHANGED, event.ignored))

    async def _moved(
        self, event: Event, ref: SubscriptionRef, link: Link, cause: Mapping[str, str]
    ) -> Link | EventResult:
        """Return the link of a subscription of the event's customer once it is where it belongs; or why it is not."""
        moved = await self._moves.move(ref, link, cause)
        if isinstance(moved, Link) and event.customer_id and link.customers_tenant not in (None, moved.tenant_id):
            await self._store_customer(event, ref, moved)
        return moved

    async def _store_customer(self, event: Event, ref: SubscriptionRef, link: Link) -> None:
        batch = CommandPipeline(self._store)
        move_customer(batch, ref, str(event.customer_id), link)
        await batch.run()

    async def _named_by(self, event: Event, link: Link, customer: Customer) -> Link:
        """Return the link with the names that the customer's own events have given."""
        for name in customer.names:
            link = await with_name(self._store, event, link, name)
        return link

    async def _guessed(self, event: Event, link: Link, candidates: Sequence[str]) -> Link:
        """Return the link with a guess: the customer's only tenant, or the only one that has the subscription."""
        ref = SubscriptionRef.of(event)
        if len(candidates) > 1:
            # Older builds did not store their guesses.
            candidates = [tenant for tenant in candidates if await self._has(ref, tenant)]
        if len(candidates) != 1:
            return link
        while link.tenant_id is None:
            await flip(self._store, ref, link, candidates[0], Strength.GUESS)
            link = await read_stored(self._store, ref)
        if link.tenant_id == TOMBSTONE:
            return link
        await self._store_customer(event, ref, link)
        # The customer's event may have come in between, and have not found the subscription.
        return await self._named_by(event, link, await read_customer(self._store, event))

    async def _has(self, ref: SubscriptionRef, tenant_id: str) -> bool:
        facts = known_facts(await self._store.read(ref.topic(tenant_id)))
        return facts is not None and ref.key in facts.subscriptions

    def _topic(self, event: Event, link: Link) -> str:
        """Return the topic of the event: its subscription's, or an erased tenant's that it names."""
        name = tenant_resolution.strongest(link)
        is_erased = name is not None and name[1] == event.tenant_id != link.tenant_id
        tenant_id = event.tenant_id if is_erased and not tenant_resolution.is_ending(event) else link.tenant_id
        return tenant_resolution.tenant_topic(event.environment, str(tenant_id))


def _has_other(facts: Facts | None, event: Event, live: frozenset[str]) -> bool:
    """Return whether a tenant has a paid subscription of the event's customer that is not among the `live` ones."""
    return facts is not None and any(
        entry.customer == (event.provider, event.customer_id)
        and entry.subscription.status in PAID_STATUSES
        and entry.subscription.id not in live
        and entry.order.occurred_ns <= event.order.occurred_ns
        for entry in facts.recurring.values()
    )
