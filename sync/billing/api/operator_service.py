"""What operators read and do about billing, as JSON documents and without HTTP: for a console in the same process.

The routes for operators answer the same documents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from planwire_client.core.topic import Topic
from sync.billing.api import overrides, parked, tenants
from sync.billing.api.errors import ERRORS
from sync.billing.api.status import Tabs, status_document
from sync.billing.api.tenant_commands import TenantCommands, known_environment
from sync.billing.services.wiring import BillingServices
from sync.http.problem import Problem, problem_of

Document = dict[str, object]


@contextlib.contextmanager
def _raises_problems() -> Iterator[None]:
    """Raise, for each foreseen error, the problem that the routes answer it with."""
    try:
        yield
    except Problem:
        raise
    except tuple(ERRORS) as error:
        raise problem_of(error, ERRORS) from error


class OperatorService:
    """The documents and commands. What fails raises Problem, with the code that the route answers."""

    def __init__(self, services: BillingServices, environments: tuple[str, ...], tabs: Tabs | None = None) -> None:
        """Serve `environments`; `tabs` returns the versions that open tabs show."""
        self.environments = environments
        self._commands = TenantCommands(services)
        self._tabs = tabs

    async def parked(self, environment: str, after: tuple[int, str] | None, limit: int) -> tuple[int, list[Document]]:
        """Return how many events are parked, and up to `limit` of them, the longest parked first.

        Args:
            environment: one of `environments`.
            after: the cursor (microseconds, event id) behind which the list begins; None: at the beginning.
            limit: maximum number of events in the list.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self._commands.services.environment(environment).inbox
        _, total = await inbox.counts()
        return total, [parked.operator_record(record) for record in await inbox.parked(after, limit)]

    async def retry(self, environment: str, event_id: str) -> Document:
        """Return the outcome of a parked event that is retried now."""
        with _raises_problems():
            return await parked.retried(
                self._commands.services, known_environment(environment, self.environments), event_id
            )

    async def reconcile(self, tenant: Topic, by: str) -> Document:
        """Return what comparing a tenant with its provider finds, once it is repaired; `by` goes into the cause."""
        environment = known_environment(tenant.env, self.environments)
        with _raises_problems():
            return await tenants.reconciled(
                self._commands.services.reconciliation, environment, str(tenant), {"by": by}
            )

    async def overrides(self, tenant: Topic) -> Document:
        """Return a tenant's overrides, also those that have expired."""
        known_environment(tenant.env, self.environments)
        with _raises_problems():
            return await overrides.overrides_document(self._commands.services.store, str(tenant))

    async def status(self, tenant: Topic) -> Document:
        """Return what the provider said last, what the store holds and what tabs show."""
        environment = known_environment(tenant.env, self.environments)
        with _raises_problems():
            return await status_document(self._commands, environment, str(tenant), self._tabs)

    async def drift(self, environment: str, before: str, limit: int) -> Document:
        """Return up to `limit` drift records older than the cursor `before` ("": the newest), and the counts."""
        environment = known_environment(environment, self.environments)
        with _raises_problems():
            return await tenants.drift_document(self._commands.services, environment, before, limit)
