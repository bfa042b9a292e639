"""The operators' queries and commands for billing, as JSON documents without HTTP, for a console in the same process.

The HTTP operations for operators answer the same documents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import cast

from planwire_client.core.topic import Topic
from sync.billing.api.bodies import requests
from sync.billing.api.links import Links
from sync.billing.api.operations import ERRORS, Asked, Document, known_environment
from sync.billing.api.overrides import Overrides
from sync.billing.api.parked import ParkedEvents, ParkedItems
from sync.billing.api.previews import Previews
from sync.billing.api.shadow import Shadows
from sync.billing.api.status import Statuses, Tabs
from sync.billing.api.tenants import Tenants
from sync.billing.services.wiring import BillingServices
from sync.http.endpoint import trusted
from sync.http.fields import Reader
from sync.http.problem import Problem, problem_of

_OVERRIDE = Reader(requests.OverrideRequest)
_PREVIEW = Reader(requests.PreviewBody)
_SCHEDULE = Reader(requests.ScheduleRequest)


class OperatorService:
    """The documents and commands. A failure raises Problem, with the same code as the HTTP route."""

    def __init__(self, services: BillingServices, environments: tuple[str, ...], tabs: Tabs | None = None) -> None:
        """Serve `environments`; `tabs` returns the versions that open tabs show."""
        self.environments = environments
        self._services = services
        self._tabs = tabs

    async def parked(self, environment: str, after: tuple[int, str] | None, limit: int) -> tuple[int, list[Document]]:
        """Return how many events are parked, and up to `limit` of them, the longest parked first.

        Args:
            environment: one of `environments`.
            after: the cursor (microseconds, event id) after which the list begins; None: at the beginning.
            limit: maximum number of events in the list.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self._services.environment(environment).inbox
        _, total = await inbox.counts()
        names = ("event_id", "provider", "type", "reason", "topic", "received_us", "parked_us", "attempts")
        return total, [
            {"waits_on": record.waits, **{name: getattr(record, name) for name in names}}
            for record in await inbox.parked(after, limit)
        ]

    async def parked_items(self, environment: str, limit: int) -> list[Document]:
        """Return up to `limit` items of the worker's queues that failed until they were parked: dead letters, too."""
        found = await self._answer(ParkedItems(self._services).listing(self._asked(environment), limit))
        return cast(list[Document], found["items"])

    async def retry(self, environment: str, event_id: str) -> Document:
        """Retry a parked event now; return its outcome."""
        return await self._answer(ParkedEvents(self._services).retry(self._asked(environment), event_id))

    async def reconcile(self, tenant: Topic, by: str) -> Document:
        """Compare a tenant with its provider and repair it; return what was found. `by` goes into the cause."""
        asked = self._asked(tenant.env, tenant, by)
        return await self._answer(Tenants(self._services).reconcile(asked))

    async def grant(self, tenant: Topic, override: Mapping[str, object], by: str) -> Document:
        """Add an override, given as the route's body; return the outcome and version. `by` goes into the cause."""
        asked = self._asked(tenant.env, tenant, by)
        return await self._answer(Overrides(self._services).grant(asked, _OVERRIDE.read(override)))

    async def preview(self, tenant: Topic, change: Mapping[str, object]) -> Document:
        """Return what a change, given as the route's body, would make of a tenant. Nothing is done."""
        asked = self._asked(tenant.env, tenant)
        return await self._answer(Previews(self._services).preview(asked, _PREVIEW.read(change)))

    async def schedule(self, tenant: Topic, change: Mapping[str, object], by: str) -> Document:
        """Hold a plan change, given as the route's body, until its time. `by` goes into the cause."""
        asked = self._asked(tenant.env, tenant, by)
        return await self._answer(Tenants(self._services).schedule(asked, _SCHEDULE.read(change)))

    async def unschedule(self, tenant: Topic, app: str, by: str) -> Document:
        """Forget the plan change that is held for an application ("": the leading one). `by` goes into the cause."""
        return await self._answer(Tenants(self._services).unschedule(self._asked(tenant.env, tenant, by), app))

    async def overrides(self, tenant: Topic) -> Document:
        """Return a tenant's overrides, expired ones included."""
        return await self._answer(Overrides(self._services).overrides(self._asked(tenant.env, tenant)))

    async def links(self, tenant: Topic) -> Document:
        """Return a tenant's subscriptions with what names the tenant, and those that were moved away."""
        return await self._answer(Links(self._services, ()).links(self._asked(tenant.env, tenant)))

    async def status(self, tenant: Topic) -> Document:
        """Return the provider's last answers, the stored state and the versions that tabs show."""
        return await self._answer(Statuses(self._services, self._tabs).status(self._asked(tenant.env, tenant)))

    async def drift(self, environment: str, before: str, limit: int) -> Document:
        """Return up to `limit` drift records older than the cursor `before` ("": the newest), and the counts."""
        return await self._answer(Tenants(self._services).drift(self._asked(environment), limit, before))

    async def shadow(self, environment: str, limit: int) -> Document:
        """Return the report on an environment's shadow, with up to `limit` tenants that differ."""
        return await self._answer(Shadows(self._services).report(self._asked(environment), limit))

    async def tenant_shadow(self, tenant: Topic) -> Document:
        """Return what billing computes of a tenant, and how it differs from the other system's answer."""
        return await self._answer(Shadows(self._services).of_tenant(self._asked(tenant.env, tenant)))

    def _asked(self, environment: str, tenant: Topic | None = None, by: str = "") -> Asked:
        known_environment(environment, self.environments)
        return Asked(environment, "" if tenant is None else str(tenant), trusted(by))

    async def _answer(self, document: Awaitable[Document]) -> Document:
        """Return the document, or raise the problem that the HTTP route would answer."""
        try:
            return await document
        except Problem:
            raise
        except tuple(ERRORS) as error:
            raise problem_of(error, ERRORS) from error
