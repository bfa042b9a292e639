"""The console's login, logout and session, and the token that opens the page's stream."""

from __future__ import annotations

import time

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth import revocation_store
from gateway.auth.revocations import LOGIN_TTL_S, LOGINS_MAX, Revocation
from gateway.console.auth import COOKIE, COOKIE_TTL_S, STREAM_TTL_S, ConsoleAuth
from gateway.console.routes.actions import Actions
from gateway.console.routes.query import console_json
from gateway.node import Node
from sync.http.body import read_json
from sync.http.problem import Problem
from sync.store.models import StoreError

LOGIN_BODY_MAX_BYTES = 4096

LOGOUT_HERE_ONLY = "the cookie is gone from this browser and ended in this process; the others were not told"

log = structlog.get_logger("gateway.console")


class SessionRoutes:
    """The handlers. `environments` are those of the intake; None in a process that takes no webhooks."""

    def __init__(
        self, node: Node, console_auth: ConsoleAuth, actions: Actions, environments: tuple[str, ...] | None
    ) -> None:
        self._node = node
        self._console_auth = console_auth
        self._actions = actions
        self._environments = environments

    async def login(self, request: Request) -> Response:
        """Exchange a console token for a cookie."""
        self._console_auth.require_visible(request)
        scheme = self._console_auth.require_own_origin(request)
        body = await read_json(request, LOGIN_BODY_MAX_BYTES, self._node.settings.body_timeout_s)
        token = body.get("token") if isinstance(body, dict) else None
        cookie = self._console_auth.login(request, token, time.time())
        return _with_cookie(Response(status_code=204), request, scheme, cookie, COOKIE_TTL_S)

    async def logout(self, request: Request) -> Response:
        """End the login of the cookie at every gateway, and remove the cookie."""
        self._console_auth.require_visible(request)
        scheme = self._console_auth.require_own_origin(request)
        response = Response(status_code=204)
        login = self._console_auth.login_of(request)
        if login:
            ended = Revocation("login", login, time.time())
            self._node.revoke(ended)
            try:
                await revocation_store.announce(self._node.store, ended, keep_s=LOGIN_TTL_S, limit=LOGINS_MAX)
            except StoreError as error:
                log.warning("logout_not_announced", error=str(error))
                response = Problem("store_unavailable", LOGOUT_HERE_ONLY).response()
        return _with_cookie(response, request, scheme, "", 0)

    async def session(self, request: Request) -> Response:
        """Answer the caller's scopes and what this process offers."""
        principal = self._console_auth.require(request)
        return console_json(
            self._node,
            session=principal.session,
            scopes=principal.scopes,
            dev=self._node.settings.dev,
            has_login=principal.has_login,
            expires_at=principal.expires_at,
            intake=self._environments is not None,
            simulator=bool(self._actions.simulated),
            actions=self._actions.names(principal),
            simulator_actions=self._actions.simulated,
            environments=self._environments or [],
        )

    async def token(self, request: Request) -> Response:
        """Answer a token for the page's stream."""
        principal = self._console_auth.require(request)
        self._console_auth.require_page(request, principal)
        text, ends = self._console_auth.stream_token(principal, time.time())
        return console_json(self._node, token=text, expires_at=ends, ttl_s=STREAM_TTL_S)


def _with_cookie(response: Response, request: Request, scheme: str, value: str, ttl_s: int) -> Response:
    is_secure = "https" in (scheme, request.url.scheme)
    # Without a path the cookie is for the folder of the login, whatever prefix a proxy puts before it.
    response.set_cookie(COOKIE, value, ttl_s, path=None, secure=is_secure, httponly=True, samesite="strict")
    return response
