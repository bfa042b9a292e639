"""Revocations of tokens. Pure.

A revocation of a subject, a topic, or both together covers the tokens issued until its instant. A revocation of a token
id covers that token whenever it was issued. `encode` and `decode` convert the JSON on the Redis channel `pw:control`;
`gateway.auth.revocation_store` sends and stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from gateway.auth.claims import TEXT_MAX, Claims
from planwire_client.core.topic import tenant_of, usage_topic

Kind = Literal["sub", "topic", "jti", "sub_topic", "login"]
KINDS: tuple[str, ...] = get_args(Kind)

OP = "revoke"
"""The `op` of a revocation on the control channel, which also has messages with other ops."""

LOGIN = "login"
"""The kind for an ended console login; its value is the login's id."""

LOGIN_PREFIX = "console-"
"""Prefix of a login's id. The tokens of the login's stream have this id as their `jti`."""

LOGIN_TTL_S = 3600.0
"""Lifetime of a login, and how long its end is remembered."""

LOGINS_MAX = 10_000
"""Maximum ended logins kept. Beyond it the oldest becomes a cut-off time: all logins before it have ended."""

VALUE_MAX = 3 * TEXT_MAX
"""Maximum characters of a value: a topic (at most 450), a space and a subject."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens that match `kind` and `value` and were issued at or before `at` are no longer valid.

    A token id (jti) and a login's id match their tokens whatever the time of issue.

    Attributes:
        kind: what `value` is.
        value: the subject, topic, token id or login id; for sub_topic the topic, one space, and the subject.
        at: seconds since 1970.
    """

    kind: Kind
    value: str
    at: float

    @property
    def topic(self) -> str:
        """The revoked topic; empty if the revocation is not limited to one."""
        return self.value.partition(" ")[0] if self.kind in ("topic", "sub_topic") else ""

    def matches(self, claims: Claims) -> bool:
        """Whether kind and value match a token with these claims. The time of issue is not compared."""
        match self.kind:
            case "sub":
                return claims.sub == self.value
            case "jti" | "login":
                return claims.jti == self.value
            case "topic":
                return _may_read(claims, self.value)
            case "sub_topic":
                topic, _, sub = self.value.partition(" ")
                return claims.sub == sub and _may_read(claims, topic)


def _may_read(claims: Claims, topic: str) -> bool:
    is_tenant = bool(tenant_of(usage := usage_topic(topic)))
    return claims.may_read(topic) or (is_tenant and claims.may_read(usage))


class Revocations:
    """The revocations in force, at most `limit`. Beyond it the oldest becomes a cut-off time for all tokens.

    A token without `iat` counts as issued before every revocation.
    """

    __slots__ = ("_at", "_floor", "_limit", "_login_floor", "_logins")

    def __init__(self, limit: int = 100_000) -> None:
        self._at: dict[tuple[str, str], float] = {}
        self._floor = -1.0
        self._limit = limit
        self._logins: dict[str, float] = {}
        self._login_floor = -1.0

    def __len__(self) -> int:
        return len(self._at)

    def revoke(self, kind: Kind, value: str, at: float) -> bool:
        """Put a revocation in force. Return False if one for the same value is as late as `at` already."""
        if kind == LOGIN:
            return self._end_login(value, at)
        key = (kind, value)
        if at <= self._at.get(key, self._floor):
            return False
        self._at.pop(key, None)
        self._at[key] = at
        if len(self._at) > self._limit:
            oldest = next(iter(self._at))
            self._floor = max(self._floor, self._at.pop(oldest))
        return True

    def _end_login(self, login: str, at: float) -> bool:
        """Record the end of a login. Logins have their own limit and cut-off, so logouts cannot revoke other tokens."""
        if login in self._logins:
            return False
        while self._logins and next(iter(self._logins.values())) < at - LOGIN_TTL_S:
            del self._logins[next(iter(self._logins))]
        self._logins[login] = at
        if len(self._logins) > LOGINS_MAX:
            self._login_floor = max(self._login_floor, self._logins.pop(next(iter(self._logins))))
        return True

    def is_login_ended(self, login: str, issued_at: float) -> bool:
        """Whether a login has ended, for the login itself or a token of its stream, issued at `issued_at`."""
        return login in self._logins or issued_at <= self._login_floor

    def is_revoked(self, claims: Claims, topic: str | None = None) -> bool:
        """Whether the token is revoked: for all topics or, if given, for `topic`."""
        if claims.jti.startswith(LOGIN_PREFIX) and self.is_login_ended(claims.jti, claims.iat):
            return True
        if not self._at and self._floor < 0:
            return False
        if claims.jti and ("jti", claims.jti) in self._at:
            return True
        at = max(self._floor, self._at.get(("sub", claims.sub), -1.0))
        # Who may no longer read a tenant, reads nothing of its usage either.
        for name in () if topic is None else filter(None, (topic, tenant_of(topic))):
            at = max(at, self._at.get(("topic", name), -1.0))
            at = max(at, self._at.get(("sub_topic", f"{name} {claims.sub}"), -1.0))
        return claims.iat <= at

    def prune(self, before: float) -> None:
        """Remove revocations older than `before` (seconds since 1970); no valid token can match them any more."""
        self._at = {key: at for key, at in self._at.items() if at >= before}


def encode(revocation: Revocation) -> bytes:
    """Return the control channel's JSON: {"op":"revoke","kind":...,"value":...,"at":seconds}."""
    return orjson.dumps({"op": OP, "kind": revocation.kind, "value": revocation.value, "at": revocation.at})


def decode(message: Mapping[str, Any]) -> Revocation | None:
    """Return the revocation in a control message with the op OP; None if the message is malformed."""
    kind, value, at = message.get("kind"), message.get("value"), message.get("at")
    if kind not in KINDS or not isinstance(value, str) or not 1 <= len(value) <= VALUE_MAX:
        return None
    if isinstance(at, bool) or not isinstance(at, int | float) or at < 0:
        return None
    return Revocation(kind, value, float(at))
