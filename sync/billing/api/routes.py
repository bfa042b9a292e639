"""All routes of the intake: webhooks, and what operators and backends ask about tenants, parked events and topics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sync.billing.api import webhooks
from sync.billing.api.errors import ERRORS
from sync.billing.api.overrides import Operators
from sync.billing.api.parked import ParkedEvents
from sync.billing.api.previews import Previews
from sync.billing.api.status import Standing, Tabs
from sync.billing.api.tenant_commands import TenantCommands, asked_environment, asked_topic, require_all
from sync.billing.api.tenants import Tenants
from sync.billing.api.topics import Topics
from sync.billing.providers import registry
from sync.billing.services.wiring import BillingServices
from sync.http.endpoint import Count, Guard, Handler, guarded, not_counted, require, route
from sync.http.openapi import Operation, declared
from sync.http.openapi import operations as operations_of
from sync.settings import SyncSettings
from sync.source.hydration import Hydration


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
        guard: admits callers of the routes for operators and backends; without one there are only the webhooks.
        hydration: asks the application's backend about topics that no provider bills.
        tabs: returns the versions that open tabs show; None in a process without gateways.
        count: counts answers.
        wrap_webhook: wraps the handler of each provider's webhooks.
    """
    found = webhooks.routes(services, settings, count, wrap_webhook)
    if guard is None:
        return found
    commands = TenantCommands(services)
    holders = (
        ParkedEvents(services), Tenants(commands), Operators(commands), Standing(commands, tabs), Previews(commands),
        Topics(services, settings.billed_environments, hydration),
    )  # fmt: skip
    for holder in holders:
        for operation, handler in declared(holder):
            admitted = guarded(guard, _scoped(operation, handler, settings.environments))
            found.append(route(operation.path, operation.method, admitted, count, ERRORS))
    return found


def _scoped(operation: Operation, handler: Callable[..., Awaitable[Response]], environments: Sequence[str]) -> Handler:
    """Return `handler` for callers with the operation's scope, called with the environment that is asked about."""
    if not operation.scope:
        return handler
    scope = operation.scope

    async def answer(request: Request) -> Response:
        environment = asked_environment(request, environments)
        if "{id}" in operation.path:
            require(request, scope, asked_topic(request, environment))
        else:
            require_all(request, scope, environment)
        return await handler(request, environment)

    return answer


DECLARING = (ParkedEvents, Tenants, Operators, Standing, Previews, Topics)
"""The classes whose methods declare the operations for operators and backends."""


def operations() -> list[Operation]:
    """Return every operation of the intake, whatever providers a process is set up for."""
    found = [webhooks.webhook_operation(spec) for spec in registry.PROVIDERS.values()]
    return found + [operation for kind in DECLARING for operation in operations_of(kind)]
