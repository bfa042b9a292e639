"""What the services of one process share: the store, the catalog, the providers and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sync.billing.catalog.catalog import Catalog
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.evaluation import Setting
from sync.billing.providers.base import ProviderClient, WebhookAdapter
from sync.billing.storage.environment import Environment
from sync.store.store import Store

LEASE_S = 30.0
"""How long a claimed event or timer belongs to its worker. A crashed worker's events are taken up after it."""


@dataclass(eq=False, repr=False)
class BillingContext:
    """What the services share.

    Attributes:
        adapters: the providers whose webhooks are read, by name.
        clients: the providers that can be asked, by name and environment: there an event is only a hint.
        now_ns: the clock, nanoseconds since 1970.
    """

    store: Store
    catalog_watcher: CatalogWatcher
    adapters: Mapping[str, WebhookAdapter]
    clients: Mapping[tuple[str, str], ProviderClient] = field(default_factory=dict)
    lease_s: float = LEASE_S
    now_ns: Callable[[], int] = time.time_ns
    _environments: dict[str, Environment] = field(init=False, default_factory=dict)

    def environment(self, name: str) -> Environment:
        """Return what is kept for an environment."""
        known = self._environments.get(name)
        if known is None:
            known = self._environments[name] = Environment(self.store, name, self.lease_s)
        return known

    def setting(self, environment: str, catalog: Catalog | None = None) -> Setting:
        """Return what decisions depend on now; `catalog` in place of the present one."""
        return Setting(catalog or self.catalog_watcher.current, environment, self.clients.keys(), self.now_ns())

    @property
    def now_us(self) -> int:
        """The clock, microseconds since 1970."""
        return self.now_ns() // 1000
