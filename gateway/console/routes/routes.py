"""The console's routes: its page, login and logout, and the page's JSON API.

There is a console if PLANWIRE_CONSOLE_TOKEN is set, and in development on loopback.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import structlog
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.reads import rated_by_address
from gateway.auth import revocation_store
from gateway.auth.revocations import LOGIN_TTL_S, LOGINS_MAX, Revocation
from gateway.console.auth import COOKIE, COOKIE_TTL_S, STREAM_TTL_S, ConsoleAuth, Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.routes.actions import Actions
from gateway.console.routes.billing import BillingRoutes
from gateway.console.routes.query import Answerer, Members
from gateway.console.routes.shadow import ShadowRoutes
from gateway.console.routes.topics import TopicRoutes
from gateway.console.routes.usage import UsageRoutes
from gateway.node import Node
from sync.http.body import read_json
from sync.http.endpoint import Handler, route
from sync.http.problem import Problem
from sync.http.static_files import Assets
from sync.store.models import StoreError

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService
    from sync.usage.api.operator_usage import OperatorUsage

PAGES = Path(__file__).parents[1] / "static"

LOGIN_BODY_MAX_BYTES = 4096

LOGOUT_HERE_ONLY = "the cookie is gone from this browser and ended in this process; the others were not reached"

log = structlog.get_logger("gateway.console")


def console_routes(
    console: ConsoleObserver,
    console_auth: ConsoleAuth,
    service: OperatorService | None,
    operator_usage: OperatorUsage | None,
) -> list[BaseRoute]:
    """Return the console's routes.

    Args:
        service, operator_usage: the access to billing and to usage; None in a process without a webhook intake.
    """
    node = console.node
    topics = TopicRoutes(console)
    billing = BillingRoutes(console, service)
    shadow = ShadowRoutes(service, billing.counted)
    usage = UsageRoutes(operator_usage, billing.counted)
    actions = Actions(console, {**billing.actions, **usage.actions})

    async def session(_: Request, principal: Principal) -> Members:
        return {
            "session": principal.session,
            "scopes": principal.scopes,
            "dev": node.settings.dev,
            "has_login": bool(principal.login),
            "expires_at": principal.expires_at,
            "intake": service is not None,
            "simulator": bool(actions.simulated),
            "actions": actions.names(principal),
            "simulator_actions": actions.simulated,
            "environments": [] if service is None else service.environments,
        }

    async def token(_: Request, principal: Principal) -> Members:
        text, ends = console_auth.stream_token(principal, time.time())
        return {"token": text, "expires_at": ends, "ttl_s": STREAM_TTL_S}

    reads = {"session": session, "audit": actions.audit, **_topic_reads(topics), **_billing_reads(billing)}
    reads |= {"shadow": shadow.report, "shadow/{name:path}": shadow.tenant, "usage/{name:path}": usage.usage}
    writes = {"look": topics.look, "token": token, "actions/{action}": actions.act}
    api = [("GET", path, read) for path, read in reads.items()] + [("POST", path, do) for path, do in writes.items()]
    counted = partial(route, count=node.metrics.answered)
    return [
        counted("/console/login", "POST", partial(_login, node, console_auth)),
        counted("/console/logout", "POST", partial(_logout, node, console_auth)),
        *(counted(f"/console/api/{path}", method, _answering(node, console_auth, do)) for method, path, do in api),
        counted("/console", "GET", partial(_index, console_auth)),
        Mount("/console", rated_by_address(_pages(console_auth), node.settings)),
    ]


def _topic_reads(topics: TopicRoutes) -> dict[str, Answerer]:
    return {
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
    }


def _billing_reads(billing: BillingRoutes) -> dict[str, Answerer]:
    return {
        "parked": billing.parked,
        "schedule/{name:path}": billing.schedule,
        "overrides/{name:path}": billing.overrides,
        "links/{name:path}": billing.links,
        "drift": billing.drift,
        "status/{name:path}": billing.status,
    }


def _answering(node: Node, console_auth: ConsoleAuth, answerer: Answerer) -> Handler:
    """Return a handler that authenticates the caller and answers as JSON. A POST must come from our page."""

    async def answer(request: Request) -> Response:
        principal = console_auth.require(request)
        if request.method == "POST":
            console_auth.require_page(request, principal)
        members = await answerer(request, principal)
        body = {"gateway": node.name, "at": time.time(), **members}
        return Response(orjson.dumps(body), media_type="application/json")

    return answer


async def _index(console_auth: ConsoleAuth, request: Request) -> Response:
    console_auth.require_visible(request)
    return RedirectResponse("console/")


def _pages(console_auth: ConsoleAuth) -> ASGIApp:
    """Return the app that serves the page's files, if there is a console. They hold no data and need no login."""
    pages = Assets(PAGES, (".html", ".js", ".css"))

    async def visible_pages(scope: Scope, receive: Receive, send: Send) -> None:
        console_auth.require_visible(HTTPConnection(scope))
        await pages(scope, receive, send)

    return visible_pages


async def _login(node: Node, console_auth: ConsoleAuth, request: Request) -> Response:
    """Exchange a console token for a cookie."""
    console_auth.require_visible(request)
    scheme = console_auth.require_own_origin(request)
    body = await read_json(request, LOGIN_BODY_MAX_BYTES, node.settings.body_timeout_s)
    token = body.get("token") if isinstance(body, dict) else None
    cookie = console_auth.login(request, token, time.time())
    return _with_cookie(Response(status_code=204), request, scheme, cookie, COOKIE_TTL_S)


async def _logout(node: Node, console_auth: ConsoleAuth, request: Request) -> Response:
    """End the cookie's login at every gateway, and remove the cookie."""
    console_auth.require_visible(request)
    scheme = console_auth.require_own_origin(request)
    response = Response(status_code=204)
    if login := console_auth.login_of(request):
        ended = Revocation("login", login, time.time())
        node.revoke(ended)
        try:
            await revocation_store.announce(node.store, ended, keep_s=LOGIN_TTL_S, limit=LOGINS_MAX)
        except StoreError as error:
            log.warning("logout_not_announced", error=str(error))
            response = Problem("store_unavailable", LOGOUT_HERE_ONLY).response()
    return _with_cookie(response, request, scheme, "", 0)


def _with_cookie(response: Response, request: Request, scheme: str, value: str, ttl_s: int) -> Response:
    is_secure = "https" in (scheme, request.url.scheme)
    # Without a path the cookie is valid for the folder of the login route, with any prefix that a proxy adds.
    response.set_cookie(COOKIE, value, ttl_s, path=None, secure=is_secure, httponly=True, samesite="strict")
    return response
