"""The web process's ASGI app: the gateway's routes, and, unless told not to, the webhook intake beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from gateway import descriptors, http
from gateway.assets import Assets
from gateway.console.billing import Billing
from gateway.console.gate import Gate, is_on
from gateway.console.inner import inner, is_ours
from gateway.console.node import ConsoleNode
from gateway.console.refusals import Watched
from gateway.console.routes import console_routes
from gateway.demo_routes import demo_routes
from gateway.endpoint import Counted, require_key
from gateway.middleware import Front
from gateway.node import Node
from gateway.problem import Problem, exception_handlers
from gateway.rates import RatedByAddress
from gateway.settings import GatewaySettings
from sync.state import embedded
from sync.state.connect import connect

if TYPE_CHECKING:
    from sync.billing.pipeline import Pipeline

STORE_PATIENCE_S = 3.0
"""How long a process that a runner started leaves the start of the embedded store to the runner's own."""

_SOURCE = Path(__file__).parent
CLIENT_FILES = next(
    folder for folder in (_SOURCE / "_client", _SOURCE.parent / "clients" / "js-snippet") if folder.is_dir()
)
"""The browser client: packed beside this module in a wheel, in its own folder in a checkout."""


def create_app(environ: Mapping[str, str] = os.environ) -> ASGIApp:
    """Return the app of one web process, configured by `environ`.

    Raises:
        SettingsError: the environment is not a usable configuration.
    """
    settings = descriptors.fit(GatewaySettings.from_env(environ))
    routes: list[BaseRoute] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        async with AsyncExitStack() as stack:
            url = settings.redis_url.get_secret_value()
            if not url:
                patience_s = STORE_PATIENCE_S if settings.watch_pid else 0.0
                store = embedded.serve(settings.data_dir, patience_s=patience_s, durable=settings.durable)
                url = await stack.enter_async_context(store)
            connected = connect(url, durable=settings.durable)
            stack.push_async_callback(connected.store.aclose)
            gate = Gate(settings) if is_on(settings) else None
            node = Node(settings, connected) if gate is None else ConsoleNode(settings, connected, gate.stream_keys)
            billing: Billing | None = None
            app.router.routes.extend(http.routes(node))
            if settings.intake:
                # Only here: a process that takes no webhooks does not load the billing wing.
                from sync import intake
                from sync.billing.backlog import Backlog
                from sync.hydration import hydration
                from sync.selfcheck import self_check
                from sync.settings import SyncSettings

                sync_settings = SyncSettings.from_env(environ)
                pipeline = await intake.pipeline(connected.store, sync_settings)
                stack.push_async_callback(pipeline.aclose)
                hydrating = hydration(connected.store, sync_settings)
                if hydrating is not None:
                    stack.push_async_callback(hydrating.aclose)
                node.metrics.backlog = Backlog(
                    connected.store.redis, map(pipeline.environment, sync_settings.environments)
                )
                doors = intake.routes(pipeline, sync_settings, _guard(node), hydrating, node.acks.ask)
                app.router.routes.extend(doors)
                for door in doors:
                    if door.path.startswith("/webhooks/"):
                        await self_check(front, door.path)
                        if isinstance(node, ConsoleNode):
                            door.app = Watched(door.app, door.path.removeprefix("/webhooks/"), node.refusals)
                    door.app = Counted(door.app, door.path, node.metrics)
                billing = Billing(sync_settings.environments, _parked(pipeline), inner(doors))
            if gate is not None and isinstance(node, ConsoleNode):
                app.router.routes.extend(console_routes(node, gate, billing))
            await stack.enter_async_context(node.run(_stop_process))
            yield {"node": node}

    if settings.dev:
        routes += demo_routes(settings)
    client_files = Assets(CLIENT_FILES, (".js", ".d.ts"), shared=True)
    routes.append(Mount("/client", RatedByAddress(client_files, settings)))
    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=exception_handlers())
    # Starlette builds its redirects for a final slash from the client's Host header.
    application.router.redirect_slashes = False
    front = Front(application, settings.origin_allowed)
    return front


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


def _guard(node: Node) -> Callable[[Request], Awaitable[Response | None]]:
    """Return what lets holders of a publish key in, and the console, for the intake's own routes."""

    async def guard(request: Request) -> Response | None:
        if is_ours(request):
            request.state.caller = "console"
            return None
        try:
            request.state.caller = require_key(node, request).name
        except Problem as problem:
            return problem.response()
        return None

    return guard


def _stop_process() -> None:
    """Have the server stop as an operator would: a gateway without its tasks must not look alive."""
    os.kill(os.getpid(), signal.SIGTERM)
