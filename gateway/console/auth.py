"""Authentication of the console: the caller and their scopes, and the check that a request comes from our page.

It exchanges a console token for a cookie, and issues the tokens for the page's stream.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

import jwt
from starlette.requests import HTTPConnection, Request

from gateway.api.access import bearer, is_local
from gateway.auth import origins
from gateway.auth.addresses import LOCAL, TrustedProxies, group
from gateway.auth.revocations import LOGIN_PREFIX, LOGIN_TTL_S, Revocations
from gateway.auth.verify_keys import VerifyKey, pinned_key
from gateway.console import scopes
from gateway.console.scopes import ConsoleToken
from gateway.settings import GatewaySettings
from sync.http.problem import Problem

COOKIE = "planwire_console"
COOKIE_TTL_S = int(LOGIN_TTL_S)
"""Seconds that a login lasts. Use does not extend it."""

AUDIENCE = "planwire-console"
_CLAIMS = ["exp", "aud", "jti", "iat"]
STREAM_ISSUER = "planwire-console"
STREAM_TTL_S = 300
"""Seconds that a token of the page's stream lasts. The page fetches a new one before that."""

HEADER = "planwire-console"
"""The required header of every POST of a page. Forms and pages of other origins cannot send it."""

LOGIN_TRIES = 10
LOGIN_WINDOW_S = 60.0
"""At most LOGIN_TRIES wrong tokens per client address within LOGIN_WINDOW_S seconds. A valid token always works."""

ADDRESSES_MAX = 1000
"""Maximum number of counted addresses. Beyond it the least recent one is dropped."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller.

    Attributes:
        session: the name of the login in the audit.
        expires_at: seconds since 1970; None: never.
        login: the id of the login, which a logout revokes; "" without a login.
    """

    session: str
    token: ConsoleToken
    expires_at: float | None = None
    login: str = ""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The token's current scopes, not those at the time of the login."""
        return self.token.scopes

    @property
    def may_see_private(self) -> bool:
        """Whether the caller may see private parts."""
        return scopes.PRIVATE in self.token.scopes


@dataclass(frozen=True, slots=True)
class Tokens:
    """The console tokens of a deployment.

    Attributes:
        given: the tokens of PLANWIRE_CONSOLE_TOKEN.
        developer: replaces a token in development if none is given; it cannot be used to log in.
    """

    given: tuple[ConsoleToken, ...]
    developer: ConsoleToken | None = None

    @classmethod
    def of(cls, settings: GatewaySettings) -> Tokens | None:
        """Return the tokens in `settings`; None: there is no console."""
        if given := scopes.parse(settings.console_token.get_secret_value()):
            return cls(given)
        if not settings.dev:
            return None
        secret = settings.jwt_secret[0].get_secret_value() if settings.jwt_secret else secrets.token_urlsafe(32)
        (developer,) = scopes.parse(hmac.digest(secret.encode(), b"planwire console in development", "sha256").hex())
        return cls((), developer)

    @property
    def stream_keys(self) -> list[VerifyKey]:
        """The keys that verify the stream tokens of all processes. They grant the scope `console`."""
        tokens = self.given if self.developer is None else (self.developer,)
        return [pinned_key(_key_id(token), token.stream_key, STREAM_ISSUER, "console") for token in tokens]


def _key_id(token: ConsoleToken) -> str:
    return f"{STREAM_ISSUER}-{token.id}"


class ConsoleAuth:
    """Checks callers. Every key is derived from a console token, so all processes of a deployment agree."""

    def __init__(self, settings: GatewaySettings, tokens: Tokens, revocations: Revocations) -> None:
        """Admit holders of `tokens`. `revocations` contains the ended logins."""
        self._tokens = tokens.given
        self._developer = tokens.developer
        self._revocations = revocations
        self._origin_allowed = settings.origin_allowed
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._audience = settings.jwt_audience
        self._stream_ttl_s = min(STREAM_TTL_S, settings.token_max_ttl_s)
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def require_visible(self, request: HTTPConnection) -> None:
        """Return if this request may see the console.

        Raises:
            Problem: 404 not_found.
        """
        if not self._tokens and not is_local(request):
            raise Problem("not_found", "Not Found")

    def require(self, request: Request) -> Principal:
        """Return the caller, by cookie or `Authorization: Bearer`; the developer on loopback if no token is set.

        Raises:
            Problem: 404 not_found where there is no console; 401 token_missing, token_expired or key_invalid; 429
                rate_limited after too many wrong tokens.
        """
        self.require_visible(request)
        presented = bearer(request)
        if presented and self._tokens:
            token = self._checked(request, presented, time.time())
            return Principal(f"t_{token.id}", token)
        if self._developer is not None:
            return Principal("dev", self._developer)
        return self._by_cookie(request.cookies.get(COOKIE, ""))

    def _by_cookie(self, cookie: str) -> Principal:
        try:
            named = jwt.get_unverified_header(cookie).get("kid") if cookie else None
            token = next((token for token in self._tokens if token.id == named), None)
            if token is None:
                raise Problem("token_missing", "log in with a console token first")
            claims = jwt.decode(cookie, token.cookie_key, ["HS256"], {"require": _CLAIMS}, audience=AUDIENCE)
        except jwt.ExpiredSignatureError:
            raise Problem("token_expired", "the login has ended, log in again") from None
        except jwt.InvalidTokenError:
            raise Problem("token_missing", "log in with a console token first") from None
        login = str(claims["jti"])
        if self._revocations.is_login_ended(login, float(claims["iat"])):
            raise Problem("token_revoked", "this login was logged out of, log in again")
        return Principal(f"c_{login.removeprefix(LOGIN_PREFIX)[:16]}", token, float(claims["exp"]), login)

    def login_of(self, request: Request) -> str:
        """Return the id of the login in the request's cookie; "" if there is none or it has ended."""
        try:
            return self._by_cookie(request.cookies.get(COOKIE, "")).login
        except Problem:
            return ""

    def require_page(self, request: Request, principal: Principal) -> None:
        """Return if a POST comes from our own page, or from a caller with a token instead of a cookie.

        Raises:
            Problem: 403 header_missing or origin_forbidden.
        """
        if bearer(request) and principal.session.startswith("t_"):
            return
        if HEADER not in request.headers:
            raise Problem("header_missing", "send the header Planwire-Console: 1")
        self.require_own_origin(request)

    def require_own_origin(self, request: Request) -> str:
        """Return the scheme of our page that sent this POST. Browsers send the origin with every POST.

        Our page has the requested host as its origin. A listed origin is accepted as well if the browser says that page
        and gateway have the same origin: then a proxy has changed the Host.

        Raises:
            Problem: 403 origin_forbidden.
        """
        origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
        is_listed = self._origin_allowed(origin)
        if not origins.is_own_page(origin, host):
            if not is_listed or request.headers.get("sec-fetch-site") != "same-origin":
                raise Problem(
                    "origin_forbidden",
                    f"the console answers its own page only: the page is of {origin[:200] or 'no origin'}, the Host "
                    f"header names {host[:200]}; a proxy must pass Host on unchanged (nginx: $http_host)",
                )
        elif not is_listed and not origins.is_rebinding_proof(origin):
            raise Problem(
                "origin_forbidden",
                f"over http any name may be made to lead here: use https, or list {origin[:200]} in "
                "PLANWIRE_ALLOWED_ORIGINS",
            )
        return origin.partition("://")[0].lower()

    def login(self, request: Request, presented: object, now: float) -> str:
        """Return the value of the cookie for a valid token.

        Raises:
            Problem: 429 rate_limited, 401 key_invalid.
        """
        token = self._checked(request, presented if isinstance(presented, str) else "", now)
        login = LOGIN_PREFIX + secrets.token_hex(8)
        claims = {"aud": AUDIENCE, "iat": int(now), "exp": int(now) + COOKIE_TTL_S, "jti": login}
        return jwt.encode(claims, token.cookie_key, "HS256", {"kid": token.id})

    def stream_token(self, principal: Principal, now: float) -> tuple[str, int]:
        """Return a token for the page's stream, which grants reports only, and its expiry (seconds since 1970)."""
        ends = int(now) + self._stream_ttl_s
        claims: dict[str, object] = {
            "iss": STREAM_ISSUER,
            "sub": f"console-{principal.session}",
            "iat": int(now),
            "exp": ends,
            "topics": ["*"],
            "scope": ["console"],
            "jti": principal.login,  # so that the logout ends the stream as well
            "aud": self._audience,
        }
        claims = {name: value for name, value in claims.items() if value}
        return jwt.encode(claims, principal.token.stream_key, "HS256", {"kid": _key_id(principal.token)}), ends

    def _checked(self, request: Request, presented: str, now: float) -> ConsoleToken:
        # Compared before the limit is checked, so that other callers' wrong tokens never block a valid one.
        if (token := scopes.find(self._tokens, presented)) is not None:
            return token
        peer = request.client.host if request.client is not None else LOCAL
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        self._count_wrong(group(self._proxies.client(peer, forwarded)), now)
        raise Problem("key_invalid", "that is not a console token")

    def _count_wrong(self, address: str, now: float) -> None:
        """Count a wrong token.

        Raises:
            Problem: 429 rate_limited after too many.
        """
        began, count = self._tries.get(address, (now, 0))
        if now - began >= LOGIN_WINDOW_S:
            began, count = now, 0
        if count >= LOGIN_TRIES:
            wait = {"Retry-After": str(max(1, round(began + LOGIN_WINDOW_S - now)))}
            detail = f"{LOGIN_TRIES} wrong tokens in {LOGIN_WINDOW_S:g} s are enough; a right one is taken at any time"
            raise Problem("rate_limited", detail, headers=wait)
        self._tries[address] = began, count + 1
        self._tries.move_to_end(address)
        if len(self._tries) > ADDRESSES_MAX:
            self._tries.popitem(last=False)
