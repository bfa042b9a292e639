"""The console's routes: its page and the JSON behind it. There is a console if PLANWIRE_CONSOLE_TOKEN is set, and in
development on loopback."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

from gateway.api.rate_limits import RatedByAddress
from gateway.console.auth import ConsoleAuth
from gateway.console.observer import ConsoleObserver
from gateway.console.routes.actions import Actions
from gateway.console.routes.billing import BillingRoutes
from gateway.console.routes.session import SessionRoutes
from gateway.console.routes.topics import TopicRoutes
from sync.http.endpoint import Handler, route
from sync.http.problem import Problem
from sync.http.static_files import Assets

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

PAGES = Path(__file__).parents[1] / "static"


def console_routes(
    console: ConsoleObserver, console_auth: ConsoleAuth, service: OperatorService | None
) -> list[BaseRoute]:
    """Return the console's routes. `service` reads and changes billing; None in a process that takes no webhooks."""
    node = console.node
    topics = TopicRoutes(console, console_auth)
    billing = BillingRoutes(console, console_auth, service)
    actions = Actions(console, console_auth, service)
    session = SessionRoutes(node, console_auth, actions, None if service is None else service.environments)

    async def index(request: Request) -> Response:
        console_auth.require_visible(request)
        return RedirectResponse("console/")

    reads = {
        "session": session.session,
        "counters": topics.counters,
        "gateways": topics.gateways,
        "topics": topics.topics,
        "topics/{name:path}": topics.topic,
        "timeline/{name:path}": topics.timeline,
        "diff/{name:path}": topics.diff,
        "snapshot/{name:path}": topics.snapshot,
        "events/{name:path}": topics.events,
        "fixture/{name:path}": topics.fixture,
        "refusals": topics.refusals,
        "audit": topics.audit,
        "parked": billing.parked,
        "schedule/{name:path}": billing.schedule,
        "overrides/{name:path}": billing.overrides,
        "drift": billing.drift,
        "status/{name:path}": billing.status,
    }
    counted = partial(route, count=node.metrics.answered)
    return [
        counted("/console/login", "POST", session.login),
        counted("/console/logout", "POST", session.logout),
        *(counted(f"/console/api/{path}", "GET", _guarded(console_auth, read)) for path, read in reads.items()),
        counted("/console/api/look", "POST", topics.look),
        counted("/console/api/token", "POST", session.token),
        counted("/console/api/actions/{action}", "POST", actions.act),
        counted("/console", "GET", index),
        Mount("/console", RatedByAddress(_Pages(console_auth), node.settings)),
    ]


def _guarded(console_auth: ConsoleAuth, handler: Handler) -> Handler:
    """Return `handler` for the callers that may use the console."""

    async def answer(request: Request) -> Response:
        console_auth.require(request)
        return await handler(request)

    return answer


class _Pages(Assets):
    """The page's files, where there is a console. They hold no data, so only the API asks for a login."""

    def __init__(self, console_auth: ConsoleAuth) -> None:
        super().__init__(PAGES, (".html", ".js", ".css"))
        self._console_auth = console_auth

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file, or raise 404."""
        try:
            self._console_auth.require_visible(HTTPConnection(scope))
        except Problem as problem:
            raise HTTPException(404) from problem
        return await super().get_response(path, scope)
