"""The webhook intake of a web process. It loads billing, so a process without an intake does not import it."""

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


@dataclass(frozen=True, slots=True)
class Intake:
    """An open intake.

    Attributes:
        backlog: the queues of the intake's environments.
        hydration: asks the application's backend for topics that no provider bills; None where there is none.
    """

    settings: SyncSettings
    services: BillingServices
    backlog: Backlog
    hydration: Hydration | None

    def routes(self, node: Node, wrap_webhook: webhooks.WrapWebhook | None) -> list[Route]:
        """Return the intake's routes in front of `node`; `wrap_webhook` watches each provider's deliveries."""
        return billing_routes.routes(
            self.services,
            self.settings,
            publish_key_guard(node),
            self.hydration,
            node.acks.of_topic,
            node.metrics.answered,
            wrap_webhook,
        )

    async def self_check(self, front: Callable[[list[Route]], ASGIApp]) -> None:
        """Return if webhooks reach their handlers unchanged behind the middleware that `front` puts around routes.

        The check has routes of its own, so that it is neither counted nor listed.

        Raises:
            SelfCheckError: some middleware rewrites bodies.
        """
        if not any(provider.secrets for provider in self.settings.providers.values()):
            return
        routes = webhooks.routes(self.services, self.settings)
        for route in routes:
            await webhooks.self_check(front(routes), route.path)

    def operator_service(self, node: Node) -> OperatorService:
        """Return what a console in this process reads and does."""
        return OperatorService(self.services, self.settings.environments, node.acks.of_topic)


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
        hydrating = hydration(store, settings)
        if hydrating is not None:
            stack.push_async_callback(hydrating.aclose)
        backlog = Backlog(store, settings.environments)
        yield Intake(settings, services, backlog, hydrating)
