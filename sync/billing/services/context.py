"""The shared context of one process's services: the store, the catalog, the providers and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import structlog

from sync.billing.catalog.catalog import Catalog
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.entitlements.items import Setting, as_hint_unless_sold, without_ignored_names
from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.domain.tenant_naming import TENANT_FIELDS, Naming, of_own_account, sanitize
from sync.billing.providers.base import ProviderClient
from sync.billing.providers.webhook_adapter import WebhookAdapter
from sync.billing.storage.environment import Environment
from sync.store.isolation import Isolation, described
from sync.store.store import Store

LEASE_S = 30.0
"""Lease of a claimed event or timer. After a crash, another worker claims it when the lease has expired."""

COMPARISON_PAUSE_S = 3.0
"""Minimum time between two requested comparisons of a tenant, for each subscription that the first one asked about."""

CHECKOUT_PAUSE_S = 2.0
"""Minimum time between two reads of a tenant's checkouts."""

LATE_SWEEP_S = 900.0
"""Delay of the last sweep after the start or an edit of the catalog: the other processes have the same one then."""

SHADOW_PAUSE_S = 5.0
"""Time that the other system has to use an event, before its answer is compared with what billing makes of it."""

_log = structlog.get_logger("sync.pipeline")


@dataclass(eq=False, repr=False)
class BillingContext:
    """What the services share.

    Attributes:
        adapters: the webhook adapters, by provider.
        clients: the API clients, by provider and environment. With a client an event is only a hint to fetch.
        now_ns: the clock, nanoseconds since 1970.
        isolation: isolates the items of the queues.
        comparison_pause_s, checkout_pause_s: how often browsers may cause calls; see COMPARISON_PAUSE_S and
            CHECKOUT_PAUSE_S.
        late_sweep_s: see LATE_SWEEP_S.
        has_shadow: whether another system is asked what tenants have; see `is_shadowing`.
        shadow_pause_s: see SHADOW_PAUSE_S.
        accounts: the connected accounts whose events count, by provider; `*` for all.
        tenant_secrets: verify signed tenant references.
        tenant_fields: the metadata keys that name a tenant, in order.
    """

    store: Store
    catalog_watcher: CatalogWatcher
    adapters: Mapping[str, WebhookAdapter]
    clients: Mapping[tuple[str, str], ProviderClient] = field(default_factory=dict)
    lease_s: float = LEASE_S
    comparison_pause_s: float = COMPARISON_PAUSE_S
    checkout_pause_s: float = CHECKOUT_PAUSE_S
    late_sweep_s: float = LATE_SWEEP_S
    now_ns: Callable[[], int] = time.time_ns
    accounts: Mapping[str, Collection[str]] = field(default_factory=dict)
    tenant_secrets: Sequence[bytes] = ()
    tenant_fields: Sequence[str] = TENANT_FIELDS
    has_shadow: bool = False
    shadow_pause_s: float = SHADOW_PAUSE_S
    isolation: Isolation = field(init=False)
    _environments: dict[str, Environment] = field(init=False, default_factory=dict)
    _product_sellers: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.isolation = Isolation(self.store)
        self._product_sellers = frozenset(name for name, adapter in self.adapters.items() if adapter.sells_products)

    def environment(self, name: str) -> Environment:
        """Return an environment's part of the store."""
        known = self._environments.get(name)
        if known is None:
            known = self._environments[name] = Environment(self.store, name, self.lease_s)
        return known

    def can_ask(self, environment: str) -> bool:
        """Return whether an environment has a provider with an API client."""
        return any(name == environment for _, name in self.clients)

    def parse(
        self, provider: str, body: bytes, environment: str, event_id: str = "", catalog: Catalog | None = None
    ) -> Event | Unparsable:
        """Return the event in a verified body, with the tenant that it names.

        A body at which the adapter fails is kept for a release that can read it.

        Args:
            provider: the provider's name.
            body: the raw bytes.
            environment: the event's.
            event_id: the id under which it is stored, or is to be stored; "" for the id in the body.
            catalog: see `setting`.
        """
        adapter = self.adapters[provider]
        try:
            accounts = self.accounts.get(provider, ())
            event = of_own_account(adapter.parse(body, environment, event_id), provider, environment, accounts)
            event = self.named(event, catalog) if isinstance(event, Event) else event
        except Exception as error:
            _log.error("event_unreadable", provider=provider, event_id=event_id, exc_info=error)
            event = Unparsable(f"sha256-{sha256(body).hexdigest()}", "", f"{provider}: {described(error)}"[:300])
        return event if event_id in ("", event.event_id) else replace(event, event_id=event_id)

    def named(self, event: Event, catalog: Catalog | None = None) -> Event:
        """Return the event with the tenant that it names. One of other software names none: no link is stored of it.

        Args:
            catalog: see `setting`.
        """
        setting = self.setting(event.environment, catalog)
        is_signed_only = setting.catalog.policy.unsigned_tenant == "park"
        event = sanitize(event, Naming(self.tenant_secrets, is_signed_only, self.tenant_fields))
        return as_hint_unless_sold(without_ignored_names(event, setting), setting)

    def setting(self, environment: str, catalog: Catalog | None = None) -> Setting:
        """Return the current setting of decisions, with `catalog` instead of the current one if it is given."""
        catalog = catalog or self.catalog_watcher.current
        return Setting(catalog, environment, self.clients.keys(), self.now_ns(), self._product_sellers)

    def current_catalog(self) -> Catalog:
        """Return the catalog of now; it changes with an edit of the file."""
        return self.catalog_watcher.current

    @property
    def is_shadowing(self) -> bool:
        """Whether pages do not see what billing computes of tenants that are new to it, until they are switched."""
        return self.has_shadow or self.catalog_watcher.current.shadow is not None

    @property
    def shadow_due_us(self) -> int:
        """When a tenant that changes now is compared with the other system, microseconds since 1970."""
        return self.now_us + int(self.shadow_pause_s * 1_000_000)

    @property
    def now_us(self) -> int:
        """The clock, microseconds since 1970."""
        return self.now_ns() // 1000
