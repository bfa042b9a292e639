"""The services of one process, wired together: each is handed what it needs, and no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.providers.base import ProviderClient, WebhookAdapter
from sync.billing.services.committer import Committer
from sync.billing.services.erase import Erasure
from sync.billing.services.ingest import Ingest
from sync.billing.services.reconcile import Reconciliation
from sync.billing.services.reproject import Reprojection
from sync.billing.services.wakeup import Wakeup
from sync.billing.storage.environment import Environment
from sync.store.store import Store

LEASE_S = 30.0
"""How long a claimed event or timer belongs to its worker. A crashed worker's events are taken up after it."""


class BillingServices:
    """Billing on one store. One per process, shared by its tasks."""

    def __init__(
        self,
        store: Store,
        catalog_watcher: CatalogWatcher,
        adapters: Mapping[str, WebhookAdapter],
        clients: Mapping[tuple[str, str], ProviderClient] = MappingProxyType({}),
        *,
        lease_s: float = LEASE_S,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Wire the services.

        Args:
            adapters: the providers whose webhooks are read, by name.
            clients: the providers that can be asked, by name and environment; `aclose` closes them.
            now_ns: the clock, nanoseconds since 1970.
        """
        self.store = store
        self.catalog_watcher = catalog_watcher
        self.adapters = adapters
        self.clients = clients
        self.now_ns = now_ns
        self._lease_s = lease_s
        self._environments: dict[str, Environment] = {}
        self.committer = Committer(store, self.environment, now_ns)
        self.ingest = Ingest(store, self.committer, catalog_watcher, adapters, clients, self.environment, now_ns)
        self.reprojection = Reprojection(self.committer, catalog_watcher, tuple(clients), now_ns)
        self.reconciliation = Reconciliation(store, self.reprojection, clients, self.environment, now_ns)
        self.wakeup = Wakeup(
            store, self.reprojection, self.reconciliation, catalog_watcher, clients, self.environment, now_ns
        )
        self.erasure = Erasure(store, self.committer, adapters, self.environment, now_ns)

    def environment(self, name: str) -> Environment:
        """Return what is kept for an environment."""
        known = self._environments.get(name)
        if known is None:
            known = self._environments[name] = Environment(self.store, name, self._lease_s)
        return known

    async def aclose(self) -> None:
        """Close the connections to the providers; the store is the caller's."""
        for client in self.clients.values():
            await client.aclose()
