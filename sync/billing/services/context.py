"""The shared context of one process's services: the store, the catalog, the providers and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sync.billing.catalog.catalog import Catalog
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.evaluation import Setting, without_ignored_names
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.tenant_naming import TENANT_FIELDS, Naming, sanitize
from sync.billing.providers.base import ProviderClient, WebhookAdapter
from sync.billing.storage.environment import Environment
from sync.store.store import Store

LEASE_S = 30.0
"""Lease of a claimed event or timer. After a crash, another worker claims it when the lease has expired."""


@dataclass(eq=False, repr=False)
class BillingContext:
    """What the services share.

    Attributes:
        adapters: the webhook adapters, by provider.
        clients: the API clients, by provider and environment. With a client an event is only a hint to fetch.
        now_ns: the clock, nanoseconds since 1970.
        tenant_secrets: verify signed tenant references.
        tenant_fields: the metadata keys that name a tenant, in order.
    """

    store: Store
    catalog_watcher: CatalogWatcher
    adapters: Mapping[str, WebhookAdapter]
    clients: Mapping[tuple[str, str], ProviderClient] = field(default_factory=dict)
    lease_s: float = LEASE_S
    now_ns: Callable[[], int] = time.time_ns
    tenant_secrets: Sequence[bytes] = ()
    tenant_fields: Sequence[str] = TENANT_FIELDS
    _environments: dict[str, Environment] = field(init=False, default_factory=dict)

    def environment(self, name: str) -> Environment:
        """Return an environment's part of the store."""
        known = self._environments.get(name)
        if known is None:
            known = self._environments[name] = Environment(self.store, name, self.lease_s)
        return known

    def parse(self, provider: str, body: bytes, environment: str) -> Event | Unparsable:
        """Return the event in a verified body. One of other software names no tenant, so that no links are stored."""
        event = sanitize(self.adapters[provider].parse(body, environment), self.naming)
        return without_ignored_names(event, self.setting(environment)) if isinstance(event, Event) else event

    def setting(self, environment: str, catalog: Catalog | None = None) -> Setting:
        """Return the current setting of decisions, with `catalog` instead of the current one if it is given."""
        return Setting(catalog or self.catalog_watcher.current, environment, self.clients.keys(), self.now_ns())

    @property
    def naming(self) -> Naming:
        """How an event may name its tenant."""
        is_signed_only = self.catalog_watcher.current.policy.unsigned_tenant == "park"
        return Naming(self.tenant_secrets, is_signed_only, self.tenant_fields)

    @property
    def now_us(self) -> int:
        """The clock, microseconds since 1970."""
        return self.now_ns() // 1000
