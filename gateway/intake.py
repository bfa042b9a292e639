"""The webhook intake of a web process. This module loads billing; only a process with an intake imports it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.api.access import publish_key_guard
from gateway.node import Node
from sync import bootstrap
from sync.billing.api import routes as billing_routes, webhooks
from sync.billing.api.operator_service import OperatorService
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import Backlog
from sync.settings import SyncSettings
from sync.source.hydration import Hydration, hydration
from sync.store.store import Store
from sync.usage.api import routes as usage_routes
from sync.usage.api.operator_usage import OperatorUsage
from sync.usage.service import UsageService
from sync.usage.wiring import usage_calls


@dataclass(frozen=True, slots=True)
class Intake:
    """An open intake.

    Attributes:
        backlog: the queues of the intake's environments.
        hydration: asks the application's backend for topics that no provider bills; None without a backend.
        usage: counts what tenants use of their limits.
    """

    settings: SyncSettings
    services: BillingServices
    backlog: Backlog
    hydration: Hydration | None
    usage: UsageService

    def routes(self, node: Node, wrap_webhook: webhooks.WrapWebhook | None) -> list[Route]:
        """Return the intake's routes.

        Args:
            node: the node whose publish keys, acks and metrics the routes use.
            wrap_webhook: wraps each provider's webhook handler to observe its deliveries; None for no wrapper.
        """
        guard, count = publish_key_guard(node), node.metrics.answered
        return [
            *billing_routes.routes(
                self.services, self.settings, guard, self.hydration, node.acks.of_topic, count, wrap_webhook
            ),
            *usage_routes.routes(
                self.usage,
                self.services.current_catalog,
                self.settings.environments,
                guard,
                count,
                node.metrics.usage_called,
            ),
        ]

    async def self_check(self, front: Callable[[list[Route]], ASGIApp]) -> None:
        """Check that the middleware passes webhook bodies to their handlers unchanged.

        The check makes its own routes, so that metrics and the console do not show its requests.

        Args:
            front: returns the app of some routes, with all middleware.

        Raises:
            SelfCheckError: a middleware rewrites bodies.
        """
        if not any(provider.secrets for provider in self.settings.providers.values()):
            return
        routes = webhooks.routes(self.services, self.settings)
        for route in routes:
            await webhooks.self_check(front(routes), route.path)

    def operator_service(self, node: Node) -> OperatorService:
        """Return the billing service for the console of this process."""
        return OperatorService(self.services, self.settings.environments, node.acks.of_topic)

    def operator_usage(self) -> OperatorUsage:
        """Return the access to usage for the console of this process."""
        return OperatorUsage(self.usage, self.services.current_catalog, self.settings.environments)


@asynccontextmanager
async def open_intake(environ: Mapping[str, str], store: Store) -> AsyncIterator[Intake]:
    """Yield the intake that `environ` describes.

    Raises:
        SyncError: a setting, or what it names, cannot be used.
    """
    settings = SyncSettings.from_env(environ)
    async with AsyncExitStack() as stack:
        services = await bootstrap.build_services(store, settings)
        stack.push_async_callback(services.aclose)
        hydrating = hydration(store, settings, lambda: services.is_shadowing)
        if hydrating is not None:
            stack.push_async_callback(hydrating.aclose)
        backlog = Backlog(store, settings.environments)
        usage = UsageService(store, usage_calls(store, services.current_catalog, settings))
        services.erasure.also(usage.erase)
        yield Intake(settings, services, backlog, hydrating, usage)
