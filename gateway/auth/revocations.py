"""Which tokens no longer count: of a subject, a topic or both together, if issued before an instant; and single ones,
whenever they were issued. Pure.

It also writes and reads the JSON in which gateways tell each other (the Redis channel `pw:control`); sending and
keeping it is gateway/auth/revocation_store.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from gateway.auth.claims import TEXT_MAX, Claims

Kind = Literal["sub", "topic", "jti", "sub_topic", "login"]
KINDS: tuple[str, ...] = get_args(Kind)

OP = "revoke"
"""The `op` of a revocation on the control channel; other ops are for others to read."""

LOGIN = "login"
"""The kind of a login to the console that was logged out of; its value is the login's id."""

LOGIN_PREFIX = "console-"
"""How the id of a login begins, which its stream's tokens have for a `jti`."""

LOGIN_TTL_S = 3600.0
"""How long a login lasts, and so what is known of its end."""

LOGINS_MAX = 10_000
"""Ended logins that are kept; beyond, the oldest makes a general end of all logins before it."""

VALUE_MAX = 3 * TEXT_MAX
"""Characters a value may have: a topic (at most 194), a space and a subject."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens matching `kind` and `value`, issued at or before `at` (seconds since 1970), no longer count.

    `value` is the subject, the topic or the token id; for sub_topic the topic, one space, the subject; for login the
    login's id. A token id names one token, and a login's id those of its stream: they do not count whenever they say
    that they were issued.
    """

    kind: Kind
    value: str
    at: float

    @property
    def topic(self) -> str:
        """The topic that it is about; empty where it is about all."""
        return self.value.partition(" ")[0] if self.kind in ("topic", "sub_topic") else ""

    def matches(self, claims: Claims) -> bool:
        """Whether it is about a token with these claims, whenever that was issued."""
        match self.kind:
            case "sub":
                return claims.sub == self.value
            case "jti" | "login":
                return claims.jti == self.value
            case "topic":
                return claims.may_read(self.value)
            case "sub_topic":
                topic, _, sub = self.value.partition(" ")
                return claims.sub == sub and claims.may_read(topic)


class Revocations:
    """The revocations in force. Bounded: past `limit` the oldest is given up for a general one of its instant.

    A token that does not say when it was issued counts as issued before any revocation.
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
        """Return whether this is news: a matching revocation as late as `at` is none. It never moves one back."""
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
        """Note the end of a login. Apart from tokens: however often somebody logs out, no token is touched by it."""
        if login in self._logins:
            return False
        while self._logins and next(iter(self._logins.values())) < at - LOGIN_TTL_S:
            del self._logins[next(iter(self._logins))]
        self._logins[login] = at
        if len(self._logins) > LOGINS_MAX:
            self._login_floor = max(self._login_floor, self._logins.pop(next(iter(self._logins))))
        return True

    def is_login_ended(self, login: str, issued_at: float) -> bool:
        """Whether a login, begun at `issued_at`, or a token of its stream counts no longer."""
        return login in self._logins or issued_at <= self._login_floor

    def is_revoked(self, claims: Claims, topic: str | None = None) -> bool:
        """Whether the token is refused altogether, or, with `topic`, for that topic."""
        if claims.jti.startswith(LOGIN_PREFIX) and self.is_login_ended(claims.jti, claims.iat):
            return True
        if not self._at and self._floor < 0:
            return False
        if claims.jti and ("jti", claims.jti) in self._at:
            return True
        at = max(self._floor, self._at.get(("sub", claims.sub), -1.0))
        if topic is not None:
            at = max(at, self._at.get(("topic", topic), -1.0))
            at = max(at, self._at.get(("sub_topic", f"{topic} {claims.sub}"), -1.0))
        return claims.iat <= at

    def prune(self, before: float) -> None:
        """Drop those older than `before`, which no token alive can match any more."""
        self._at = {key: at for key, at in self._at.items() if at >= before}


def encode(revocation: Revocation) -> bytes:
    """Return the control channel's JSON: {"op":"revoke","kind":...,"value":...,"at":seconds}."""
    return orjson.dumps({"op": OP, "kind": revocation.kind, "value": revocation.value, "at": revocation.at})


def decode(message: Mapping[str, Any]) -> Revocation | None:
    """Return the revocation in a control message of the kind OP, None where it has the wrong form."""
    kind, value, at = message.get("kind"), message.get("value"), message.get("at")
    if kind not in KINDS or not isinstance(value, str) or not 1 <= len(value) <= VALUE_MAX:
        return None
    if isinstance(at, bool) or not isinstance(at, int | float) or at < 0:
        return None
    return Revocation(kind, value, float(at))
