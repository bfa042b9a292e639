"""Makes the calls of a process from its settings."""

from __future__ import annotations

from collections.abc import Callable

from sync.billing.catalog.catalog import Catalog
from sync.settings import SyncSettings
from sync.store.arming import arm
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store
from sync.usage.calls import UsageCalls
from sync.usage.meters import MetersWatcher


def usage_calls(store: Store, catalog: Callable[[], Catalog], settings: SyncSettings) -> UsageCalls:
    """Return the calls of a process, whose thresholds endpoints are told of.

    Args:
        store: the store.
        catalog: returns the present catalog.
        settings: say how often usage is announced, and which environments billing computes.
    """
    billed = settings.billed_environments

    def arm_one(batch: CommandPipeline, tenant: str) -> None:
        arm(store, batch, [tenant])

    push_us = int(1e6 / settings.usage_push_per_s)
    return UsageCalls(store, MetersWatcher(catalog), arm_one, push_us, lambda environment: environment in billed)
