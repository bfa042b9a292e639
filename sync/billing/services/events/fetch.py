"""Fetches the provider's current subscription for an event: the event itself is only a hint that it changed."""

from __future__ import annotations

from dataclasses import replace

import structlog

from sync.billing.domain import tenant_resolution
from sync.billing.domain.entitlements.items import without_ignored_names
from sync.billing.domain.entitlements.unknown_items import items_subject
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_resolution import CUSTOMERS, TOMBSTONE, SubscriptionRef
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.context import BillingContext
from sync.billing.services.events.attempt import Answer, Attempt, Processed
from sync.billing.storage.links import find_link, read_stored
from sync.billing.storage.tenants import known_facts

FETCH_MAX_WAIT_S = 2.5
"""Maximum wait for the provider's answer; then the delivery's own body is used. Providers wait 5 s for our answer."""

UNFETCHED_AGAIN_S = 30
"""Delay before an event that cannot do without its provider is retried after the provider was unavailable."""

AWAY = f"the provider could not be asked; tried again in {UNFETCHED_AGAIN_S} s"

BACKGROUND_MAX_WAIT_S = 60.0
"""Maximum wait for an answer in the background, where the rate limit takes most of it."""

_log = structlog.get_logger("sync.pipeline")


async def named_by_customer(context: BillingContext, event: Event, *, background: bool = False) -> Event:
    """Return the event with the tenant that its customer's metadata name, if it names none itself.

    Raises:
        ProviderUnavailable: the provider did not answer.
    """
    client = context.clients.get((event.provider, event.environment))
    if client is None or event.tenant_id or event.name_problem or event.subscription is None or not event.customer_id:
        return event
    max_wait_s = BACKGROUND_MAX_WAIT_S if background else FETCH_MAX_WAIT_S
    try:
        found = await client.customer_names(event.customer_id, max_wait_s, background=background)
    except ProviderRejected as error:
        # The API key may not read customers, or the customer is deleted: a retry would not help.
        _log.warning("customer_not_fetched", customer_id=event.customer_id, reason=str(error))
        return replace(event, unnamed=f"{event.unnamed}; its customer cannot be read: {error.code}")
    own = tuple(place for place in event.names if not place.where.startswith(CUSTOMERS))
    named = context.named(replace(event, names=(*own, *found)))
    return named if named.tenant_id else replace(named, unnamed=f"{named.unnamed} (nor on its customer)")


class ProviderFetch:
    """Asks the providers of one process about the subscriptions of events."""

    def __init__(self, context: BillingContext) -> None:
        self._context = context
        self._store = context.store

    async def fetch(self, attempt: Attempt) -> Attempt | Processed:
        """Return the attempt with the provider's current subscription, or the end of an event that cannot be used."""
        event = attempt.event
        if tenant_resolution.is_unreal(event):
            return attempt.ended(EventResult(Outcome.IGNORED, "simulated event in the live environment"))
        if event.ignored or event.is_of_payment:
            return attempt
        if event.unlisted:
            return await self._fetch_purchase(attempt)
        return await (self._ask(attempt) if event.subscription is not None else self._fetch_thin(attempt))

    async def _fetch_purchase(self, attempt: Attempt) -> Attempt | Processed:
        """Return the attempt of a purchase with its items, which its checkout shows; or its end."""
        event, client = attempt.event, self._context.clients.get((attempt.event.provider, attempt.environment))
        problem = f"set PLANWIRE_{event.provider.upper()}_API_KEYS={event.environment}:KEY"
        if client is not None:
            try:
                payment = (await client.checkout(event.unlisted, FETCH_MAX_WAIT_S)).payment
            except ProviderUnavailable as error:
                _log.warning("not_fetched", checkout=event.unlisted, reason=error.reason)
                return attempt.ended(EventResult(Outcome.PARKED, AWAY))._replace(retry_s=UNFETCHED_AGAIN_S)
            except ProviderRejected as error:
                problem = f"{event.provider} does not return it: {error}"
            else:
                if payment is not None and payment.subscription is not None:
                    whole = replace(event, subscription=payment.subscription, unlisted="")
                    whole = self._context.named(whole, attempt.catalog)
                    return attempt._replace(event=whole, link=await find_link(self._store, whole), snapshot=None)
                problem = f"{event.provider} does not show them"
        reason = f"{event.type[:60]} of {event.unlisted} carries no items: {problem}"
        return attempt.ended(EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,)))

    async def _fetch_thin(self, attempt: Attempt) -> Attempt | Processed:
        """Return the attempt of an event without a body, with the fetched body and its links; or its end."""
        attempt, event = await self._ask(attempt), attempt.event
        answer = attempt.answer or Answer()
        if answer.fetched is not None:
            whole = tenant_resolution.with_fetched(event, answer.fetched)
            whole = without_ignored_names(whole, self._context.setting(event.environment))
            return attempt._replace(event=whole, link=await find_link(self._store, whole))
        if answer.is_away:
            return attempt.ended(EventResult(Outcome.PARKED, AWAY))._replace(retry_s=UNFETCHED_AGAIN_S)
        can_ask = (event.provider, event.environment) in self._context.clients
        setting = f"set PLANWIRE_{event.provider.upper()}_API_KEYS={event.environment}:KEY"
        problem = "does not return it" if can_ask else f"cannot be asked for it: {setting}"
        reason = f"{event.type[:60]} carries no subscription, and {event.provider} {problem}"
        if event.is_hint and await self._is_known(event):
            return attempt.ended(EventResult(Outcome.IGNORED, f"{reason}; its own events say the same"))
        ref = SubscriptionRef.of(event)
        waits = (WAITS_SOFTWARE, items_subject(ref.key)) if event.is_hint else (WAITS_SOFTWARE,)
        return attempt.ended(EventResult(Outcome.PARKED, reason, waits=waits))

    async def _is_known(self, event: Event) -> bool:
        """Return whether a tenant has the subscription of an event."""
        ref = SubscriptionRef.of(event)
        tenant_id = (await read_stored(self._store, ref)).tenant_id
        if tenant_id in (None, TOMBSTONE):
            return tenant_id is not None
        facts = known_facts(await self._store.read(ref.topic(str(tenant_id))))
        return facts is not None and ref.key in facts.subscriptions

    async def _ask(self, attempt: Attempt) -> Attempt:
        """Return the attempt with the provider's current subscription, if the provider has an API client."""
        event = attempt.event
        client = self._context.clients.get((event.provider, event.environment))
        if attempt.answer is not None or client is None or event.subscription_id is None:
            return attempt
        try:
            # Drop the snapshot: it is older than the answer, and a commit against it would often conflict.
            fetched = self._context.named(await client.fetch(event.subscription_id, FETCH_MAX_WAIT_S))
            return attempt._replace(answer=Answer(fetched), snapshot=None)
        except ProviderUnavailable as error:
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=error.reason)
            return attempt._replace(answer=Answer(is_away=True))
        except ProviderRejected as error:
            # A retry would not help: the API key is of another account, or the event is simulated.
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=str(error))
            return attempt._replace(answer=Answer())
