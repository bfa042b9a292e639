"""The console's routes: its door, its page and the JSON behind it. It is not there at all unless PLANWIRE_CONSOLE_TOKEN
is set, or in development on loopback."""

from __future__ import annotations

import time
from pathlib import Path

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

from gateway.api.rate_limits import RatedByAddress
from gateway.auth import revocation_store
from gateway.auth.revocations import LOGIN_TTL_S, LOGINS_MAX, Revocation
from gateway.console.auth import COOKIE, COOKIE_TTL_S, STREAM_TTL_S, ConsoleAuth
from gateway.console.observer import ConsoleObserver
from gateway.console.routes.actions import Actions
from gateway.console.routes.billing import Billing, BillingDesk
from gateway.console.routes.topics import Desk
from sync.http.body import read_json
from sync.http.endpoint import Handler, route
from sync.http.problem import Problem
from sync.http.static_files import Assets
from sync.store.store import StoreError

log = structlog.get_logger("gateway.console")

PAGES = Path(__file__).parents[1] / "static"

LOGIN_BODY_MAX_BYTES = 4096
LOOK_BODY_MAX_BYTES = 4096

LOGOUT_HERE_ONLY = "the cookie is gone from this browser and ended in this process; the others were not told"


def console_routes(console: ConsoleObserver, console_auth: ConsoleAuth, billing: Billing | None) -> list[BaseRoute]:
    """Return the console's routes; without `billing` this process takes no webhooks, and says so where it matters."""
    node = console.node
    desk = Desk(console, console_auth)
    billing_desk = BillingDesk(console, console_auth, desk, billing)
    actions = Actions(console, console_auth, desk, billing)

    def guarded(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            console_auth.require(request)
            return await handler(request)

        return endpoint

    async def login(request: Request) -> Response:
        console_auth.require_visible(request)
        scheme = console_auth.require_own_origin(request)
        body = await read_json(request, LOGIN_BODY_MAX_BYTES, node.settings.body_timeout_s)
        value = console_auth.login(request, body.get("token") if isinstance(body, dict) else None, time.time())
        response = Response(status_code=204)
        is_secure = "https" in (scheme, request.url.scheme)
        # Without a path it is for the folder that the login is in, whatever prefix a proxy has put before it.
        response.set_cookie(COOKIE, value, COOKIE_TTL_S, path=None, secure=is_secure, httponly=True, samesite="strict")
        return response

    async def logout(request: Request) -> Response:
        console_auth.require_visible(request)
        scheme = console_auth.require_own_origin(request)
        response = Response(status_code=204)
        login = console_auth.login_of(request)
        if login:
            ended = Revocation("login", login, time.time())
            node.revoke(ended)
            try:
                await revocation_store.announce(node.store, ended, keep_s=LOGIN_TTL_S, limit=LOGINS_MAX)
            except StoreError as error:
                log.warning("logout_not_announced", error=str(error))
                response = Problem("store_unavailable", LOGOUT_HERE_ONLY).response()
        is_secure = "https" in (scheme, request.url.scheme)
        response.set_cookie(COOKIE, "", 0, path=None, secure=is_secure, httponly=True, samesite="strict")
        return response

    async def session(request: Request) -> Response:
        principal = console_auth.require(request)
        return desk.json(
            session=principal.session,
            scopes=principal.scopes,
            dev=node.settings.dev,
            has_login=principal.has_login,
            expires_at=principal.expires_at,
            intake=billing is not None,
            simulator=bool(actions.simulated),
            actions=actions.names(principal),
            simulator_actions=actions.simulated,
            environments=billing.environments if billing is not None else [],
        )

    async def look(request: Request) -> Response:
        console_auth.require_page(request, console_auth.require(request))
        body = await read_json(request, LOOK_BODY_MAX_BYTES, node.settings.body_timeout_s)
        topics = body.get("topics") if isinstance(body, dict) else None
        if not isinstance(topics, list):
            raise Problem("request_invalid", 'send {"topics": [...]}')
        return await desk.look(topics)

    async def token(request: Request) -> Response:
        principal = console_auth.require(request)
        console_auth.require_page(request, principal)
        text, ends = console_auth.stream_token(principal, time.time())
        return desk.json(token=text, expires_at=ends, ttl_s=STREAM_TTL_S)

    async def index(request: Request) -> Response:
        console_auth.require_visible(request)
        return RedirectResponse("console/")

    reads = {
        "session": session,
        "counters": desk.counters,
        "gateways": desk.gateways,
        "topics": desk.topics,
        "topics/{name:path}": desk.topic,
        "timeline/{name:path}": desk.timeline,
        "diff/{name:path}": desk.diff,
        "snapshot/{name:path}": desk.snapshot,
        "events/{name:path}": desk.events,
        "fixture/{name:path}": desk.fixture,
        "refusals": desk.refusals,
        "audit": desk.audit,
        "parked": billing_desk.parked,
        "schedule/{name:path}": billing_desk.schedule,
        "overrides/{name:path}": billing_desk.overrides,
        "drift": billing_desk.drift,
        "status/{name:path}": billing_desk.status,
    }
    return [
        route("/console/login", "POST", login, node.metrics.answered),
        route("/console/logout", "POST", logout, node.metrics.answered),
        *(
            route(f"/console/api/{path}", "GET", guarded(handler), node.metrics.answered)
            for path, handler in reads.items()
        ),
        route("/console/api/look", "POST", look, node.metrics.answered),
        route("/console/api/token", "POST", token, node.metrics.answered),
        route("/console/api/actions/{action}", "POST", actions.act, node.metrics.answered),
        route("/console", "GET", index, node.metrics.answered),
        Mount("/console", RatedByAddress(_Pages(console_auth), node.settings)),
    ]


class _Pages(Assets):
    """The page's files, where there is a console. They hold no data, so the login is asked for by the API alone."""

    def __init__(self, console_auth: ConsoleAuth) -> None:
        super().__init__(PAGES, (".html", ".js", ".css"))
        self._gate = console_auth

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file, or raise 404."""
        try:
            self._gate.require_visible(HTTPConnection(scope))
        except Problem as problem:
            raise HTTPException(404) from problem
        return await super().get_response(path, scope)
