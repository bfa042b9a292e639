"""Who sends a request to the gateway, and what they may do: tokens, publish keys, their rates and rights."""

from __future__ import annotations

import time
from typing import Protocol

from starlette.requests import HTTPConnection, Request

from gateway.auth import addresses, origins
from gateway.auth.claims import AuthFailure, Claims
from gateway.auth.publish_keys import PublishKey, PublishKeys
from gateway.auth.revocations import Revocation
from gateway.auth.rights import Denial, Scope
from gateway.auth.tokens import Auth
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from sync.http.endpoint import Caller, Guard
from sync.http.problem import Problem
from sync.store.checks.inspection import Inspection
from sync.store.store import Store


class Gateway(Protocol):
    """The parts of the running gateway that routes use."""

    @property
    def settings(self) -> GatewaySettings:
        """The configuration."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def inspection(self) -> Inspection:
        """What the store says of being fit for use."""

    @property
    def hub(self) -> Hub:
        """The live topics."""

    @property
    def auth(self) -> Auth:
        """Who verifies tokens."""

    @property
    def publish_keys(self) -> PublishKeys:
        """Who may publish."""

    @property
    def metrics(self) -> Metrics:
        """What is counted."""

    def revoke(self, revocation: Revocation) -> None:
        """Refuse what is revoked from now on, and give up what open sockets hold by it."""


def is_local(connection: HTTPConnection) -> bool:
    """Return whether a request comes from this machine and nobody passed it on.

    The Host is looked at too: a foreign name that was made to point to loopback is a foreign page's.
    """
    return (
        connection.client is not None
        and addresses.is_loopback(connection.client.host)
        and origins.is_loopback(connection.headers.get("host", ""))
        and not addresses.is_forwarded(connection.headers)
    )


def bearer(request: Request) -> str:
    """Return what the Authorization header bears (RFC 6750 section 2.1), or empty."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def require_claims(gateway: Gateway, request: Request, topic: str) -> Claims:
    """Return the claims of the request's token, which opens `topic`.

    Raises:
        Problem: 401 with the token's failure code, 403 topic_forbidden.
    """
    claims = gateway.auth.verify(bearer(request), time.time())
    if isinstance(claims, AuthFailure):
        gateway.metrics.auth_failures[claims.code] += 1
        raise Problem(claims.code, claims.message)
    if not claims.may_read(topic):
        gateway.metrics.auth_failures["topic_forbidden"] += 1
        raise Problem("topic_forbidden", "the token does not open this topic")
    if gateway.auth.revocations.is_revoked(claims, topic):
        gateway.metrics.auth_failures["token_revoked"] += 1
        raise Problem("token_revoked", "the token was revoked for this topic")
    return claims


def require_key(gateway: Gateway, request: Request) -> PublishKey:
    """Return the publish key that the request bears.

    Raises:
        Problem: 401 key_missing or key_invalid.
    """
    presented = bearer(request)
    key = gateway.publish_keys.find(presented)
    if key is None:
        code = "key_invalid" if presented else "key_missing"
        gateway.metrics.auth_failures[code] += 1
        raise Problem(code, "send Authorization: Bearer and a publish key")
    return key


def spend(key: PublishKey, units: int) -> None:
    """Return once `units` requests are taken from the key's rate; a batch counts as its items.

    Raises:
        Problem: 429 rate_limited, with Retry-After.
    """
    wait_s = key.bucket.take(units, time.monotonic())
    if wait_s:
        detail = f"the key {key.name} has {key.bucket.rate:g} requests a second; each item of a batch counts as one"
        raise Problem("rate_limited", detail, headers={"Retry-After": str(int(wait_s) + 1)})


def require_scope(gateway: Gateway, key: PublishKey, scope: Scope) -> None:
    """Return when there are topics on which the key has `scope`.

    Raises:
        Problem: 403 scope_missing.
    """
    _refuse(gateway, key.rights.missing(key.name, scope))


def require_right(gateway: Gateway, key: PublishKey, scope: Scope, topic: str) -> None:
    """Return when the key has `scope` on `topic`, a checked name or `gateway.auth.rights.ANY`.

    Raises:
        Problem: 403 scope_missing or topic_forbidden.
    """
    _refuse(gateway, key.rights.denial(key.name, scope, topic))


def _refuse(gateway: Gateway, denial: Denial | None) -> None:
    if denial is not None:
        gateway.metrics.auth_failures[denial.code] += 1
        raise Problem(denial.code, denial.detail)


def publish_key_guard(gateway: Gateway) -> Guard:
    """Return the guard of the intake's routes: it admits the holders of publish keys, each request within its rate."""

    async def guard(request: Request) -> Caller:
        key = require_key(gateway, request)
        spend(key, 1)

        def denial(scope: str, topic: str) -> tuple[str, str] | None:
            found = key.rights.denial(key.name, Scope(scope), topic)
            if found is not None:
                gateway.metrics.auth_failures[found.code] += 1
            return found

        return Caller(key.name, denial)

    return guard
