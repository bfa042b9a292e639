"""All routes of the intake: webhooks, and the operations of operators and backends."""

from __future__ import annotations

from starlette.routing import Route

from sync.billing.api import webhooks
from sync.billing.api.links import Links
from sync.billing.api.operations import ERRORS, handler
from sync.billing.api.overrides import Overrides
from sync.billing.api.parked import ParkedEvents, ParkedItems
from sync.billing.api.plan_versions import PlanVersions
from sync.billing.api.previews import Previews
from sync.billing.api.shadow import Shadows
from sync.billing.api.status import Statuses, Tabs
from sync.billing.api.tenants import Tenants, Topics
from sync.billing.providers import registry
from sync.billing.services.wiring import BillingServices
from sync.http.endpoint import Count, Guard, guarded, not_counted, route
from sync.http.openapi import Operation, declared, operations as operations_of
from sync.settings import SyncSettings
from sync.source.hydration import Hydration

DECLARING = (
    ParkedEvents, ParkedItems, Tenants, Links, Overrides, PlanVersions, Statuses, Previews, Shadows, Topics,
)  # fmt: skip
"""The classes whose methods declare the operations for operators and backends."""


def routes(
    services: BillingServices,
    settings: SyncSettings,
    guard: Guard | None = None,
    hydration: Hydration | None = None,
    tabs: Tabs | None = None,
    count: Count = not_counted,
    wrap_webhook: webhooks.WrapWebhook | None = None,
) -> list[Route]:
    """Return the routes of the intake.

    Args:
        guard: admits callers of the routes for operators and backends; None: only the webhook routes.
        hydration: fetches the topics that no provider bills from the application's backend.
        tabs: returns the versions that open tabs show; None in a process without gateways.
        count: counts answers.
        wrap_webhook: wraps the handler of each provider's webhooks.
    """
    found = webhooks.routes(services, settings, count, wrap_webhook)
    if guard is None:
        return found
    providers = [name for name, own in settings.providers.items() if own.environments]
    holders = (
        ParkedEvents(services), ParkedItems(services), Tenants(services), Links(services, providers),
        Overrides(services), PlanVersions(services), Statuses(services, tabs), Previews(services), Shadows(services),
        Topics(services, settings.billed_environments, hydration),
    )  # fmt: skip
    for holder in holders:
        for operation, method in declared(holder):
            admitted = guarded(guard, handler(operation, method, settings.environments), is_batch=operation.is_batch)
            found.append(route(operation.path, operation.method, admitted, count, ERRORS))
    return found


def operations() -> list[Operation]:
    """Return every operation of the intake, with the webhooks of all providers."""
    found = [webhooks.webhook_operation(spec) for spec in registry.PROVIDERS.values()]
    return found + [operation for kind in DECLARING for operation in operations_of(kind)]
