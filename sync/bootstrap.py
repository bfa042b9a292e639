"""The composition root: builds the services from the settings, for the worker, the backfill and the web process.

It does not load an HTTP server; `sync.billing.api` adds the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from sync.billing.catalog.catalog import CatalogError
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.providers import registry
from sync.billing.providers.base import ProviderClient
from sync.billing.providers.rate_limit import LocalRateLimiter, RedisRateLimiter
from sync.billing.providers.spec import SdkMissingError
from sync.billing.services.background.backfill import BackfillError
from sync.billing.services.wiring import BillingServices
from sync.settings import SettingsError, SyncSettings
from sync.store.redis.connect import open_store
from sync.store.store import Store

_log = structlog.get_logger("sync.bootstrap")


def check(settings: SyncSettings) -> None:
    """Check that the catalog is usable and that the SDK of every provider with API keys is installed.

    Raises:
        SettingsError: the catalog cannot be used.
        SdkMissingError: an SDK is not installed.
    """
    open_catalog(settings)
    if not settings.dev:
        for name, spec in registry.PROVIDERS.items():
            if settings.providers[name].api_keys:
                spec.check_sdk()


def open_catalog(settings: SyncSettings) -> CatalogWatcher:
    """Return a watcher of the catalog file in `settings`.

    Raises:
        SettingsError: the file cannot be read or is not a valid catalog; the message names the line.
    """
    try:
        return CatalogWatcher(settings.catalog_path, registry.PROVIDERS)
    except CatalogError as error:
        raise SettingsError([f"PLANWIRE_CATALOG: {error}"]) from error


async def build_services(store: Store, settings: SyncSettings, *, shares_rate: bool = True) -> BillingServices:
    """Return the billing services that `settings` configure.

    Args:
        shares_rate: whether all processes share the rate limits, in the store.

    Raises:
        SettingsError: the catalog cannot be used.
        SdkMissingError: API keys are set, but the provider's SDK is not installed.
    """
    catalog_watcher = await asyncio.to_thread(open_catalog, settings)
    adapters = {name: spec.adapter for name, spec in registry.PROVIDERS.items()}
    clients = await asyncio.to_thread(_build_clients, settings, store if shares_rate else None)
    tenant_secrets = [secret.get_secret_value().encode() for secret in settings.tenant_secret]
    return BillingServices(
        store, catalog_watcher, adapters, clients,
        accounts={name: own.accounts for name, own in settings.providers.items()},
        tenant_secrets=tenant_secrets, tenant_fields=settings.tenant_fields, has_shadow=bool(settings.shadow_url),
    )  # fmt: skip


def _build_clients(settings: SyncSettings, store: Store | None) -> dict[tuple[str, str], ProviderClient]:
    """Return an API client for each (provider, environment) with an API key; rate limits are kept in `store`, if any.

    Blocks for about a second if an SDK has to be imported.
    """
    found: dict[tuple[str, str], ProviderClient] = {}
    for name, spec in registry.PROVIDERS.items():
        own = settings.providers[name]
        if not own.api_keys:
            continue
        try:
            spec.check_sdk()
        except SdkMissingError as error:
            if not settings.dev:
                raise
            # Keys on a development machine are made up. It works without API calls, since events carry whole bodies.
            _log.warning(f"{name}_api_off", reason=str(error))
            continue
        for environment, key in own.api_keys:
            rate = own.api_rate_per_s
            limiter = LocalRateLimiter(rate) if store is None else RedisRateLimiter(store, name, environment, rate)
            url = own.base_url(environment)
            found[name, environment] = spec.make_client(environment, key.get_secret_value(), url, limiter)
    return found


@contextlib.asynccontextmanager
async def open_backfill(
    settings: SyncSettings, provider: str, environment: str, *, dry_run: bool
) -> AsyncIterator[BillingServices]:
    """Yield billing services on the configured store, with an API client for `provider` in `environment`.

    Raises:
        BackfillError: no API key is set for the environment, or no catalog.
        SyncError: the catalog, the store's URL or the SDK cannot be used.
    """
    own = settings.providers[provider]
    keys = [name for name, _ in own.api_keys]
    if environment not in keys:
        have = f" (there are keys for {', '.join(keys)})" if keys else ""
        setting = f"{own.variable('api_keys')}={environment}:KEY"
        raise BackfillError(f"{provider} cannot be asked in {environment}: set {setting}{have}")
    if settings.catalog is None and not settings.dev:
        raise BackfillError("PLANWIRE_CATALOG must be set: without it no price means anything")
    async with open_store(settings) as connected, contextlib.AsyncExitStack() as stack:
        # A dry run writes nothing to the store, so it has its own rate limit.
        services = await build_services(connected.store, settings, shares_rate=not dry_run)
        stack.push_async_callback(services.aclose)
        if (provider, environment) not in services.clients:
            raise BackfillError(f"{provider} cannot be asked: what asks it is not installed")
        yield services
