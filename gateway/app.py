"""Composes the web process: store, node, webhook intake, console and routes, opened in order when it starts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import routes as api_routes
from gateway.api.no_intake import no_intake_routes
from gateway.api.reads import rated_by_address
from gateway.console.auth import ConsoleAuth, Tokens
from gateway.console.observer import ConsoleObserver
from gateway.console.routes.routes import console_routes
from gateway.dev.demo_routes import demo_routes
from gateway.errors import GatewayError
from gateway.node import Node
from gateway.server import descriptors
from gateway.settings import GatewaySettings
from sync.core.errors import SyncError
from sync.http.paths import PathMiddleware
from sync.http.problem import exception_handlers
from sync.http.security_headers import SecurityHeadersMiddleware
from sync.http.static_files import Assets
from sync.process import environment
from sync.store.embedded import server
from sync.store.redis.connect import connect, open_store
from sync.usage.requests import UsageRequests

log = structlog.get_logger("gateway")

STORE_WAIT_S = 3.0
"""How long a process under a runner waits for the runner's store process before it starts the embedded store itself."""

_SOURCE = Path(__file__).parent
CLIENT_FILES = next(
    folder for folder in (_SOURCE / "_client", _SOURCE.parent / "clients" / "js-snippet") if folder.is_dir()
)
"""Folder of the browser client: beside this module in a wheel, `clients/js-snippet` in a checkout."""


class StartError(GatewayError):
    """The web process cannot start. The text is one line: which setting is wrong, and what to do."""


def check(environ: Mapping[str, str]) -> None:
    """Check, without connecting to anything, that a web process can start with `environ`.

    Creates the data directory of an embedded store and reads the catalog.

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
            # Imported here so that a process without an intake does not load billing.
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
    return DeferredApp(lambda: _opened(settings, environ))


@asynccontextmanager
async def _opened(
    settings: GatewaySettings, environ: Mapping[str, str]
) -> AsyncIterator[tuple[ASGIApp, dict[str, object]]]:
    """Open the parts of the process in order; yield the app and the server's lifespan state."""
    _warn(settings, environ)
    async with AsyncExitStack() as stack:
        connected = await stack.enter_async_context(open_store(settings, STORE_WAIT_S if settings.watch_pid else 0.0))
        intake = None
        if settings.intake:
            # Imported here so that a process without an intake does not load billing.
            from gateway.intake import open_intake

            intake = await stack.enter_async_context(open_intake(environ, connected.store))
        tokens = Tokens.of(settings)
        stream_keys = () if tokens is None else tokens.stream_keys
        backlog = None if intake is None else intake.backlog
        usage = UsageRequests(connected.store) if intake is None else intake.usage
        node = Node(settings, connected, stream_keys, backlog, usage)
        console = None if tokens is None else ConsoleObserver(node)
        routes: list[BaseRoute] = (
            demo_routes(settings, None if intake is None else intake.usage) if settings.dev else []
        )
        client_files = Assets(CLIENT_FILES, (".js", ".d.ts"), shared=True)
        routes += [Mount("/client", rated_by_address(client_files, settings)), *api_routes.routes(node)]
        if intake is None:
            routes += no_intake_routes(node.metrics.answered)
        else:
            await intake.self_check(lambda checked: _front(settings, checked))
            routes += intake.routes(node, None if console is None else console.rejected_webhooks.watched)
        if tokens is not None and console is not None:
            console_auth = ConsoleAuth(settings, tokens, node.auth.revocations)
            service = None if intake is None else intake.operator_service(node)
            operator_usage = None if intake is None else intake.operator_usage()
            routes += console_routes(console, console_auth, service, operator_usage)
        # The router tries its routes in order, and webhooks are the most frequent requests.
        routes.sort(key=lambda route: not getattr(route, "path", "").startswith("/webhooks/"))
        await stack.enter_async_context(node.run())
        if console is not None:
            await stack.enter_async_context(console.run())
        yield _front(settings, routes), {"node": node, "console": console}


def _front(settings: GatewaySettings, routes: Sequence[BaseRoute]) -> ASGIApp:
    """Return the app of `routes` with all middleware."""
    application = Starlette(routes=routes, exception_handlers=exception_handlers())
    # A redirect would use the client's Host header and lose the path prefix of a proxy.
    application.router.redirect_slashes = False
    return SecurityHeadersMiddleware(PathMiddleware(application), settings.origin_allowed)


def _warn(settings: GatewaySettings, environ: Mapping[str, str]) -> None:
    """Log settings that work but should be changed."""
    granted = {grant.key for grant in settings.publish_rights}
    without = [name for name, *_ in settings.publish_keys if name not in granted]
    if without:
        hint = "they may do everything, in this release for the last time: set X_PLANWIRE_PUBLISH_RIGHTS"
        log.warning("publish_keys_without_rights", keys=without, hint=hint)
    if ignored := environment.ignored_names(environ):
        log.warning("settings_ignored", names=ignored, reason="this build does not know them")
    if mixed := environment.mixed_versions():
        log.warning("packages_mixed", installed=mixed, action="install planwire-client in the version of planwire")


OpenApp = Callable[[], AbstractAsyncContextManager[tuple[ASGIApp, dict[str, Any]]]]
"""Opens what the app needs; yields the app and the members of the server's lifespan state."""


class DeferredApp:
    """Serves the app that `open_app` yields, from the start of the process to its end.

    If the app cannot start, the lifespan state's `failure` is the reason, in one line.
    """

    _app: ASGIApp

    def __init__(self, open_app: OpenApp) -> None:
        self._open_app = open_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the ASGI lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        async with AsyncExitStack() as stack:
            try:
                self._app, state = await stack.enter_async_context(self._open_app())
            except (GatewayError, SyncError) as error:
                scope["state"]["failure"] = str(error)
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            scope["state"].update(state)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
