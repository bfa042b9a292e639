"""The console's door: who is asking, with which scopes, and whether it was our own page that asked.

It exchanges a console token for a cookie and mints the tokens of the page's stream. It serves nothing itself.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import jwt
from starlette.requests import HTTPConnection, Request

from gateway.auth import VerifyKey, pinned_key
from gateway.console import scopes
from gateway.console.scopes import ConsoleToken
from gateway.endpoint import bearer
from gateway.problem import Problem
from gateway.settings import LOOPBACK_HOSTS, GatewaySettings

COOKIE = "planwire_console"
COOKIE_TTL_S = 3600
"""How long a login lasts; it is not prolonged."""

AUDIENCE = "planwire-console"
STREAM_ISSUER = "planwire-console"
STREAM_TTL_S = 300
"""How long a token of the page's stream lasts; the page fetches a new one in time."""

HEADER = "planwire-console"
"""What every POST of a page must bear: neither a form nor another origin's page can send it."""

LOGIN_TRIES = 10
LOGIN_WINDOW_S = 60.0
"""Wrong tokens that one address may try within so many seconds."""

ADDRESSES_MAX = 1000
"""Addresses whose tries are remembered; beyond, the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is asking: `session` names the login in the audit; `expires_at` in seconds since 1970, None for never."""

    session: str
    scopes: tuple[str, ...]
    token: ConsoleToken
    has_login: bool
    expires_at: float | None = None


def is_on(settings: GatewaySettings) -> bool:
    """Whether there is a console for anybody."""
    return settings.dev or bool(settings.console_token.get_secret_value())


def _tokens(settings: GatewaySettings) -> tuple[ConsoleToken, ...]:
    return scopes.parse(settings.console_token.get_secret_value())


def _developer(settings: GatewaySettings) -> ConsoleToken:
    """What stands for a console token where a developer needs none; nobody logs in with it."""
    secret = settings.jwt_secret[0].get_secret_value() if settings.jwt_secret else secrets.token_urlsafe(32)
    return scopes.parse(hmac.digest(secret.encode(), b"planwire console in development", "sha256").hex())[0]


def stream_keys(tokens: Sequence[ConsoleToken]) -> list[VerifyKey]:
    """Return the keys that verify stream tokens: each for one console token, and for the scope console alone."""
    return [pinned_key(_key_id(token), token.stream_key, STREAM_ISSUER, "console") for token in tokens]


def _key_id(token: ConsoleToken) -> str:
    return f"{STREAM_ISSUER}-{token.id}"


class Gate:
    """Who may look and act. Every key comes from a console token, so all processes of a deployment agree."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._tokens = _tokens(settings)
        self._dev = settings.dev
        self._developer = _developer(settings) if settings.dev else None
        self._audience = settings.jwt_audience
        self._stream_ttl_s = min(STREAM_TTL_S, settings.token_max_ttl_s)
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @property
    def stream_keys(self) -> list[VerifyKey]:
        """What verifies the tokens that `stream_token` makes here or in another process."""
        return stream_keys((*self._tokens, *(() if self._developer is None else (self._developer,))))

    def is_local(self, request: HTTPConnection) -> bool:
        """Whether it is a developer's own machine. The Host is looked at too: a foreign name that was made to point
        to loopback is a foreign page's."""
        host = _hostname(f"//{request.headers.get('host', '')}")
        return self._dev and request.client is not None and {request.client.host, host} <= LOOPBACK_HOSTS

    def require_visible(self, request: HTTPConnection) -> None:
        """Return when there is a console for this request.

        Raises:
            Problem: 404 not_found.
        """
        if not self._tokens and not self.is_local(request):
            raise Problem("not_found", "Not Found")

    def require(self, request: Request) -> Visitor:
        """Return who is asking: by a cookie, by `Authorization: Bearer`, or a developer on loopback.

        Raises:
            Problem: 404 not_found where there is no console; 401 token_missing, token_expired or key_invalid; 429
                rate_limited after too many wrong tokens.
        """
        self.require_visible(request)
        presented = bearer(request)
        if presented and self._tokens:
            token = self._checked(request, presented, time.time())
            return Visitor(f"t_{token.id}", token.scopes, token, False)
        if self.is_local(request) and self._developer is not None:
            return Visitor("dev", self._developer.scopes, self._developer, COOKIE in request.cookies)
        return self._by_cookie(request.cookies.get(COOKIE, ""))

    def _by_cookie(self, cookie: str) -> Visitor:
        try:
            named = jwt.get_unverified_header(cookie).get("kid") if cookie else None
            token = next((token for token in self._tokens if token.id == named), None)
            if token is None:
                raise Problem("token_missing", "log in with a console token first")
            claims = jwt.decode(
                cookie,
                token.cookie_key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["exp", "aud", "jti"]},
            )
        except jwt.ExpiredSignatureError:
            raise Problem("token_expired", "the login has ended, log in again") from None
        except jwt.InvalidTokenError:
            raise Problem("token_missing", "log in with a console token first") from None
        # The scopes are those that the token has now, whatever it had at the login.
        return Visitor(f"c_{str(claims['jti'])[:16]}", token.scopes, token, True, float(claims["exp"]))

    def require_page(self, request: Request, visitor: Visitor) -> None:
        """Return when a POST comes from our own page, or from somebody who bears a token instead of a cookie.

        Raises:
            Problem: 403 header_missing or origin_forbidden.
        """
        if bearer(request) and visitor.session.startswith("t_"):
            return
        if HEADER not in request.headers:
            raise Problem("header_missing", "send the header Planwire-Console: 1")
        require_own_origin(request)

    def login(self, request: Request, presented: object, now: float) -> str:
        """Return a cookie's value for the right token.

        Raises:
            Problem: 429 rate_limited, 401 key_invalid.
        """
        token = self._checked(request, presented if isinstance(presented, str) else "", now)
        claims = {"aud": AUDIENCE, "iat": int(now), "exp": int(now) + COOKIE_TTL_S, "jti": secrets.token_hex(8)}
        return jwt.encode(claims, token.cookie_key, "HS256", {"kid": token.id})

    def stream_token(self, visitor: Visitor, now: float) -> tuple[str, int]:
        """Return a token for the page's stream and when it ends: it opens what gateways report, and nothing else."""
        ends = int(now) + self._stream_ttl_s
        claims: dict[str, object] = {
            "iss": STREAM_ISSUER,
            "sub": f"console-{visitor.session}",
            "iat": int(now),
            "exp": ends,
            "topics": ["*"],
            "scope": ["console"],
        }
        if self._audience:
            claims["aud"] = self._audience
        return jwt.encode(claims, visitor.token.stream_key, "HS256", {"kid": _key_id(visitor.token)}), ends

    def _checked(self, request: Request, presented: str, now: float) -> ConsoleToken:
        address = request.client.host if request.client is not None else ""
        self._require_credit(address, now)
        token = scopes.find(self._tokens, presented)
        if token is None:
            self._spend(address, now)
            raise Problem("key_invalid", "that is not a console token")
        return token

    def _require_credit(self, address: str, now: float) -> None:
        began, count = self._tries.get(address, (now, 0))
        if now - began < LOGIN_WINDOW_S and count >= LOGIN_TRIES:
            wait = {"Retry-After": str(max(1, round(began + LOGIN_WINDOW_S - now)))}
            raise Problem("rate_limited", f"{LOGIN_TRIES} tries in {LOGIN_WINDOW_S:g} s are enough", headers=wait)

    def _spend(self, address: str, now: float) -> None:
        began, count = self._tries.get(address, (now, 0))
        if now - began >= LOGIN_WINDOW_S:
            began, count = now, 0
        self._tries[address] = began, count + 1
        self._tries.move_to_end(address)
        if len(self._tries) > ADDRESSES_MAX:
            self._tries.popitem(last=False)


def require_own_origin(request: Request) -> str:
    """Return the scheme of the page that sent this: it is our own. Every browser names it on a POST.

    Raises:
        Problem: 403 origin_forbidden.
    """
    try:
        origin = urlsplit(request.headers.get("origin", ""))
    except ValueError:
        origin = urlsplit("")
    if origin.scheme not in ("http", "https") or origin.netloc.lower() != request.headers.get("host", "").lower():
        raise Problem("origin_forbidden", "the console answers its own page only")
    return origin.scheme


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
