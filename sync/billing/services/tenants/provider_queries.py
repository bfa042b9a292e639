"""Asks the providers about tenants: about their subscriptions one by one, or for the whole list of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from planwire_client.core.topic import Topic
from sync.billing.domain.facts.model import Event, Facts
from sync.billing.domain.tenant_resolution import SubscriptionRef, is_unreal
from sync.billing.providers.base import ProviderClient, ProviderRejected, ProviderUnavailable, SubscriptionPage
from sync.billing.services.context import BillingContext
from sync.billing.services.events.resolve import TenantResolver
from sync.billing.services.move import MOVED_TYPE
from sync.billing.services.provider_lists import payments_matter, read_page
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.storage.links import read_all_stored

BACKGROUND_MAX_WAIT_S = 60.0
"""Maximum time for each answer in the background, where the rate limit takes most of it."""

ASKED_MAX = 50
"""Maximum subscriptions of one tenant that its provider is asked about at once."""

PAGES_MAX = 500
"""Maximum pages of the provider's subscriptions that a search for lost tenants reads (up to 200 subscriptions each)."""

CUSTOMERS_MAX = 5
"""Maximum customers of one tenant whose payments are read at once."""

CUSTOMER_PAGES_MAX = 20
"""Maximum pages of one customer's payments."""

_log = structlog.get_logger("sync.reconcile")


@dataclass(slots=True)
class Answers:
    """The providers' answers.

    Attributes:
        fetched: the subscriptions that were fetched, the purchases and the refunds.
        unavailable: the keys of those that could not be fetched, each with the reason.
        missing: the keys of those that the provider does not have.
        retry_s: minimum delay before a retry, in seconds; None if a retry would not help.
    """

    fetched: list[Event] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    retry_s: float | None = None


class Found(NamedTuple):
    """What a provider's list has of some tenants, by topic, and whether the list was read to its end."""

    answers: Mapping[str, Answers]
    is_complete: bool


class ProviderQueries:
    """Asks the providers of one store."""

    def __init__(self, context: BillingContext, reprojection: Reprojection, resolver: TenantResolver) -> None:
        self._context = context
        self._reprojection = reprojection
        self._resolver = resolver

    async def find(self, environment: str, tenants: set[str]) -> Found:
        """Return what the provider's whole list has of these tenants.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        found: dict[str, Answers] = {}
        complete = True
        for (provider, name), client in self._context.clients.items():
            if name == environment:
                try:
                    await self._read_list(client, provider, environment, tenants, found)
                except (ProviderUnavailable, ProviderRejected) as error:
                    _log.warning("search_ended", environment=environment, reason=str(error))
                    complete = False
        return Found(found, complete)

    async def ask(
        self,
        environment: str,
        topic: str,
        facts: Facts,
        keys: Sequence[str],
        max_wait_s: float,
        *,
        background: bool = False,
    ) -> Answers:
        """Return the providers' answers about the tenant's subscriptions with these keys.

        A subscription that names another tenant by now is moved there, and merged there.
        """
        answers = Answers()
        for key in keys:
            entry = facts.subscriptions[key]
            client = self._context.clients.get((entry.provider, environment))
            if client is None:
                answers.unavailable[key] = "no API key is set"
                continue
            try:
                fetched = await client.fetch(entry.subscription.id, max_wait_s, background=background)
            except ProviderUnavailable as error:
                answers.unavailable[key] = error.reason
                answers.retry_s = max(answers.retry_s or 0.0, error.retry_s)
            except ProviderRejected as error:
                if error.code == "not_found":
                    answers.missing.append(key)
                else:
                    answers.unavailable[key] = str(error)
            else:
                home, fetched = await self._resolver.home(fetched, topic)
                if home == topic:
                    answers.fetched.append(fetched)
                else:
                    cause = {"source": "reconcile", "event_type": MOVED_TYPE}
                    await self._reprojection.refresh(environment, home, Refresh(cause, [fetched]))
        return answers

    async def ask_payments(
        self,
        environment: str,
        topic: str,
        facts: Facts,
        answers: Answers,
        max_wait_s: float,
    ) -> None:
        """Add to `answers` what a tenant's customers have bought once, and what went back of all their payments.

        Nothing is asked of a provider whose payments change no entitlements.
        """
        customers = {entry.customer for entry in facts.subscriptions.values() if entry.customer is not None}
        setting = self._context.setting(environment)
        for provider, customer_id in sorted(customers)[:CUSTOMERS_MAX]:
            client = self._context.clients.get((provider, environment))
            if client is None or not payments_matter(provider, setting):
                continue
            try:
                await self._read_payments(client, environment, topic, customer_id, answers, max_wait_s)
            except ProviderUnavailable as error:
                answers.unavailable[f"{provider}:{customer_id}"] = error.reason
                answers.retry_s = max(answers.retry_s or 0.0, error.retry_s)
            except ProviderRejected as error:
                answers.unavailable[f"{provider}:{customer_id}"] = str(error)

    async def _read_payments(
        self,
        client: ProviderClient,
        environment: str,
        topic: str,
        customer_id: str,
        answers: Answers,
        max_wait_s: float,
    ) -> None:
        after = ""
        for _ in range(CUSTOMER_PAGES_MAX):
            page = await client.payments(after, max_wait_s, customer_id)
            for event in self._usable(page):
                home, known = await self._resolver.home(event, "", guesses=True)
                if home == topic:
                    answers.fetched.append(known)
                elif home:
                    cause = {"source": "reconcile", "event_type": MOVED_TYPE}
                    await self._reprojection.refresh(environment, home, Refresh(cause, [known]))
            after = page.following
            if not after:
                return
        _log.warning("payments_ended", topic=topic, reason=f"more than {CUSTOMER_PAGES_MAX} pages")

    async def _read_list(
        self, client: ProviderClient, provider: str, environment: str, tenants: set[str], found: dict[str, Answers]
    ) -> None:
        """Add to `found` the subscriptions, purchases and refunds of these tenants in the provider's lists."""
        after, matter = "", payments_matter(provider, self._context.setting(environment))
        customers: set[str | None] = set()
        for _ in range(PAGES_MAX):
            page = await read_page(client, after, BACKGROUND_MAX_WAIT_S, with_payments=matter)
            events = self._usable(page)
            links = await read_all_stored(self._context.store, [SubscriptionRef.of(event) for event in events])
            for event, link in zip(events, links, strict=True):
                # A refund names nobody. What it is of comes before it in the lists, and may have been found just now.
                is_its = event.refund is not None and (not event.customer_id or event.customer_id in customers)
                if tenants.isdisjoint((link.tenant_id, event.tenant_id)) and not is_its:
                    continue
                home, vouched = await self._resolver.home(event, "", guesses=event.refund is not None)
                if home and Topic.parse(home).id in tenants:
                    found.setdefault(home, Answers()).fetched.append(vouched)
                    customers.add(event.customer_id)
            after = page.following
            if not after:
                return
        _log.warning("search_ended", environment=environment, reason=f"more than {PAGES_MAX} pages")

    def _usable(self, page: SubscriptionPage) -> list[Event]:
        """Return the events of a page that are about a subscription, a purchase or a refund of this environment."""
        events = [self._context.named(entry.event) for entry in page.entries if entry.event is not None]
        return [event for event in events if not event.ignored and event.subscription_id and not is_unreal(event)]
