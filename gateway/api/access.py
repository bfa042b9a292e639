"""Authentication and authorization of HTTP requests: tokens, publish keys, and the rates and rights of keys."""

from __future__ import annotations

import time
from functools import partial

from starlette.requests import HTTPConnection, Request

from gateway.auth import addresses, origins
from gateway.auth.claims import AuthFailure, Claims
from gateway.auth.publish_keys import PublishKey, Scope, TokenBucket
from gateway.node import Node
from sync.http.endpoint import Caller, Guard
from sync.http.problem import Problem


def is_local(connection: HTTPConnection) -> bool:
    """Return whether a request comes from this machine, directly and not through a proxy.

    The Host header must name loopback too. With DNS rebinding, a foreign page's own host name can resolve to loopback.
    """
    return (
        connection.client is not None
        and addresses.is_loopback(connection.client.host)
        and origins.is_loopback(connection.headers.get("host", ""))
        and not addresses.is_forwarded(connection.headers)
    )


def bearer(request: Request) -> str:
    """Return the bearer token of the Authorization header (RFC 6750 section 2.1); empty without one."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def require_claims(node: Node, request: Request, topic: str) -> Claims:
    """Return the claims of the request's token after checking that it opens `topic`.

    Raises:
        Problem: 401 with the token's failure code, 403 topic_forbidden.
    """
    claims = node.auth.verify(bearer(request), time.time())
    if isinstance(claims, AuthFailure):
        raise refusal(node, claims.code, claims.message)
    if not claims.may_read(topic):
        raise refusal(node, "topic_forbidden", "the token does not open this topic")
    if node.auth.revocations.is_revoked(claims, topic):
        raise refusal(node, "token_revoked", "the token was revoked for this topic")
    return claims


def require_key(node: Node, request: Request, units: int = 1) -> PublishKey:
    """Return the request's publish key after taking `units` from its rate.

    Raises:
        Problem: 401 key_missing or key_invalid, 429 rate_limited.
    """
    presented = bearer(request)
    key = node.publish_keys.find(presented)
    if key is None:
        code = "key_invalid" if presented else "key_missing"
        raise refusal(node, code, "send Authorization: Bearer and a publish key")
    spend(key, units)
    return key


def refusal(node: Node, code: str, detail: str) -> Problem:
    """Return the problem for an insufficient token or key, and count it."""
    node.metrics.auth_failures[code] += 1
    return Problem(code, detail)


def spend(key: PublishKey, units: int) -> None:
    """Take `units` requests from the key's rate. Each item of a batch is one unit.

    Raises:
        Problem: 429 rate_limited, with Retry-After.
    """
    detail = f"the key {key.name} has {key.bucket.rate:g} requests a second; each item of a batch counts as one"
    take(key.bucket, units, time.monotonic(), detail)


def take(bucket: TokenBucket, units: int, now: float, detail: str) -> None:
    """Take `units` from a rate. `now`: seconds of the monotonic clock.

    Raises:
        Problem: 429 rate_limited with `detail` and Retry-After, if the rate is used up.
    """
    wait_s = bucket.take(units, now)
    if wait_s:
        raise Problem("rate_limited", detail, headers={"Retry-After": str(int(wait_s) + 1)})


def require_right(node: Node, key: PublishKey, scope: Scope, topic: str | None = None) -> None:
    """Check that the key has `scope` on `topic`.

    Args:
        node: counts a denial.
        key: the publish key.
        scope: the scope it needs.
        topic: a checked name, or `ANY` for all topics; None checks that the key has the scope on any topic at all.

    Raises:
        Problem: 403 scope_missing or topic_forbidden.
    """
    denial = key.rights.denial(key.name, scope, topic)
    if denial is not None:
        raise refusal(node, *denial)


def publish_key_guard(node: Node) -> Guard:
    """Return the guard of the intake's routes. It requires a publish key whose rate is not used up."""

    async def guard(request: Request) -> Caller:
        key = require_key(node, request, 0)

        def denial(scope: str, topic: str | None) -> tuple[str, str] | None:
            found = key.rights.denial(key.name, Scope(scope), topic)
            if found is not None:
                node.metrics.auth_failures[found.code] += 1
            return found

        return Caller(key.name, denial, partial(spend, key))

    return guard
