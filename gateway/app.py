"""The web process's ASGI app: the gateway's routes, and, unless told not to, the webhook intake beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from gateway.api import routes as api_routes
from gateway.api.access import require_key, spend
from gateway.api.rate_limits import RatedByAddress
from gateway.auth.publish_keys import PublishKey
from gateway.auth.rights import Scope
from gateway.console.auth import ConsoleAuth, Tokens, is_on
from gateway.console.in_process_client import inner, session_of
from gateway.console.observer import ConsoleObserver
from gateway.console.rejected_webhooks import Watched
from gateway.console.routes.billing import Billing
from gateway.console.routes.routes import console_routes
from gateway.dev.demo_routes import demo_routes
from gateway.errors import GatewayError
from gateway.node import Node
from gateway.server import descriptors
from gateway.settings import GatewaySettings
from sync.core.errors import SyncError
from sync.http.problem import exception_handlers
from sync.http.security_headers import SecurityHeadersMiddleware
from sync.http.static_files import Assets
from sync.process import environment
from sync.process.distributions import mixed_versions
from sync.store.embedded import server
from sync.store.redis.connect import connect

if TYPE_CHECKING:
    from sync.billing.services.ingest import Pipeline
    from sync.http.callers import Guard

log = structlog.get_logger("gateway")

STORE_PATIENCE_S = 3.0
"""How long a process that a runner started leaves the start of the embedded store to the runner's own."""

_SOURCE = Path(__file__).parent
CLIENT_FILES = next(
    folder for folder in (_SOURCE / "_client", _SOURCE.parent / "clients" / "js-snippet") if folder.is_dir()
)
"""The browser client: packed beside this module in a wheel, in its own folder in a checkout."""


class StartError(GatewayError):
    """The web process cannot start; the text is one line that says which setting is wrong, and what to do."""


def check(environ: Mapping[str, str]) -> None:
    """Return when a web process could start with `environ`, as far as that shows before anything is connected to.

    It creates the data directory of an embedded store, and opens the catalog.

    Raises:
        SettingsError, StartError: a setting, or what it names, cannot be used.
    """
    settings = GatewaySettings.from_env(environ)
    url = settings.redis_url.get_secret_value()
    try:
        if url:
            connect(url)  # connects on first use
        else:
            server.check(settings.data_dir)
        if settings.intake:
            from sync import bootstrap
            from sync.settings import SyncSettings

            bootstrap.check(SyncSettings.from_env(environ))
    except SyncError as error:
        raise StartError(str(error)) from error


def create_app(environ: Mapping[str, str] = os.environ) -> ASGIApp:
    """Return the app of one web process, configured by `environ`.

    Raises:
        SettingsError: the environment is not a usable configuration.
    """
    settings = descriptors.fit(GatewaySettings.from_env(environ))
    routes: list[BaseRoute] = []
    failures: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        _warn(settings, environ)
        async with AsyncExitStack() as stack:
            try:
                node, console = await started(app, stack)
            except (GatewayError, SyncError) as error:
                failures.append(str(error))
                raise
            yield {"node": node, "console": console}

    async def started(app: Starlette, stack: AsyncExitStack) -> tuple[Node, ConsoleObserver | None]:
        url = settings.redis_url.get_secret_value()
        if not url:
            patience_s = STORE_PATIENCE_S if settings.watch_pid else 0.0
            store = server.serve(settings.data_dir, patience_s=patience_s, durable=settings.durable)
            url = await stack.enter_async_context(store)
        connected = connect(url, prefix=settings.prefix, durable=settings.durable)
        stack.push_async_callback(connected.store.aclose)
        tokens = Tokens.of(settings) if is_on(settings) else None
        node = Node(settings, connected, () if tokens is None else tokens.stream_keys)
        console = None if tokens is None else ConsoleObserver(node)
        billing: Billing | None = None
        app.router.routes.extend(api_routes.routes(node))
        if settings.intake:
            # Only here: a process that takes no webhooks does not load the billing wing.
            from sync import bootstrap
            from sync.billing.api import routes as billing_routes
            from sync.billing.api.body_self_check import self_check
            from sync.billing.storage.queue_stats import Backlog
            from sync.settings import SyncSettings
            from sync.source.hydration import hydration

            sync_settings = SyncSettings.from_env(environ)
            pipeline = await bootstrap.build_pipeline(connected.store, sync_settings)
            stack.push_async_callback(pipeline.aclose)
            hydrating = hydration(connected.store, sync_settings)
            if hydrating is not None:
                stack.push_async_callback(hydrating.aclose)
            node.metrics.backlog = Backlog(connected.store, map(pipeline.environment, sync_settings.environments))
            doors = billing_routes.routes(
                pipeline, sync_settings, _guard(node), hydrating, node.acks.of_topic, node.metrics.answered
            )
            app.router.routes.extend(doors)
            for door in doors:
                if door.path.startswith("/webhooks/"):
                    await self_check(front, door.path)
                    if console is not None:
                        door.app = Watched(door.app, door.path.removeprefix("/webhooks/"), console.refusals)
            billing = Billing(sync_settings.environments, _parked(pipeline), inner(doors))
        if tokens is not None and console is not None:
            console_auth = ConsoleAuth(settings, tokens, node.auth.revocations)
            app.router.routes.extend(console_routes(console, console_auth, billing))
        await stack.enter_async_context(node.run(_stop_process))
        if console is not None:
            await stack.enter_async_context(console.run())
        return node, console

    if settings.dev:
        routes += demo_routes(settings)
    client_files = Assets(CLIENT_FILES, (".js", ".d.ts"), shared=True)
    routes.append(Mount("/client", RatedByAddress(client_files, settings)))
    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=exception_handlers())
    # It would redirect to the name that the client gave in Host, outside of whatever prefix a proxy serves this under.
    application.router.redirect_slashes = False
    front = SecurityHeadersMiddleware(application, settings.origin_allowed)
    return _WithStartFailure(front, failures)


class _WithStartFailure:
    """The app; where it cannot start it says why in one line, instead of a traceback, and in the state as `failure`."""

    def __init__(self, app: ASGIApp, failures: Sequence[str]) -> None:
        self._app = app
        self._failures = failures

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve a request, or the life of the process."""

        async def send_reason(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._failures:
                message = {**message, "message": self._failures[0]}
                scope["state"]["failure"] = self._failures[0]
            await send(message)

        await self._app(scope, receive, send_reason if scope["type"] == "lifespan" else send)


def _warn(settings: GatewaySettings, environ: Mapping[str, str]) -> None:
    """Log what works and should not stay so."""
    granted = {grant.key for grant in settings.publish_rights}
    without = [name for name, *_ in settings.publish_keys if name not in granted]
    if without:
        hint = "they may do everything, in this release for the last time: set X_PLANWIRE_PUBLISH_RIGHTS"
        log.warning("publish_keys_without_rights", keys=without, hint=hint)
    if ignored := environment.ignored_names(environ):
        log.warning("settings_ignored", names=ignored, reason="this build does not know them")
    if mixed := mixed_versions():
        log.warning("packages_mixed", installed=mixed, action="install planwire-client in the version of planwire")


def _parked(
    pipeline: Pipeline,
) -> Callable[[str, tuple[int, str] | None, int], Awaitable[tuple[int, list[dict[str, object]]]]]:
    """Return what lets the console list parked events, without their bodies."""

    async def page(environment: str, after: tuple[int, str] | None, limit: int) -> tuple[int, list[dict[str, object]]]:
        inbox = pipeline.environment(environment).inbox
        _, total = await inbox.counts()
        return total, [
            {
                "event_id": record.event_id,
                "provider": record.provider,
                "type": record.type,
                "reason": record.reason,
                "waits_on": record.waits,
                "topic": record.topic,
                "received_us": record.received_us,
                "parked_us": record.parked_us,
                "attempts": record.attempts,
            }
            for record in await inbox.parked(after, limit)
        ]

    return page


def _guard(node: Node) -> Guard:
    """Return what lets holders of a publish key in, and the console, for the intake's own routes."""
    # Only here: a process that takes no webhooks does not load the billing wing.
    from sync.http.callers import Caller

    async def guard(request: Request) -> Caller:
        session = session_of(request)
        if session is not None:
            # The console looks at its own scopes before it asks. No key has a colon in its name.
            return Caller(f"console:{session}", lambda scope, topic: None)
        key = require_key(node, request)
        spend(key, 1)
        return Caller(key.name, partial(_denial, node, key))

    return guard


def _denial(node: Node, key: PublishKey, scope: str, topic: str) -> tuple[str, str] | None:
    found = key.rights.denial(key.name, Scope(scope), topic)
    if found is not None:
        node.metrics.auth_failures[found.code] += 1
    return found


def _stop_process() -> None:
    """Have the server stop as an operator would: a gateway without its tasks must not look alive."""
    os.kill(os.getpid(), signal.SIGTERM)
