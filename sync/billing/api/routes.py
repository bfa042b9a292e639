"""All routes of the intake: webhooks, and what operators and backends ask about tenants, parked events and topics."""

from __future__ import annotations

from starlette.routing import Route

from sync.billing.api import parked, tenants, topics, webhooks
from sync.billing.api.status import Tabs
from sync.billing.services.ingest import Pipeline
from sync.http.callers import Guard
from sync.http.endpoint import Count, not_counted
from sync.settings import SyncSettings
from sync.source.hydration import Hydration


def routes(
    pipeline: Pipeline,
    settings: SyncSettings,
    guard: Guard | None = None,
    hydration: Hydration | None = None,
    tabs: Tabs | None = None,
    count: Count = not_counted,
    wrap_webhook: webhooks.WrapWebhook | None = None,
) -> list[Route]:
    """Return the routes of the intake.

    Args:
        guard: admits callers of the routes for operators and backends; without one there are only the webhooks.
        hydration: asks the application's backend about topics that no provider bills.
        tabs: returns the versions that open tabs show; None in a process without gateways.
        count: counts answers.
        wrap_webhook: wraps the handler of each provider's webhooks.
    """
    found = webhooks.routes(pipeline, settings, count, wrap_webhook)
    if guard is not None:
        found += parked.routes(pipeline, settings.environments, guard, count)
        found += tenants.routes(pipeline, settings.environments, guard, tabs, count)
        found += topics.routes(pipeline, settings.billed_environments, hydration, guard, count)
    return found
