"""What a verified token says: who, until when, which topics, with which scopes. Pure; verifies no signature."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planwire_client.core.topic import PROBE_KIND, RESERVED_KINDS, Topic, TopicError

ANY_TOPIC = "*"
"""The entry of `topics` that stands for every topic that the scopes open; never for the gateways' probes."""

SCOPES = ("read", "private", "console")
DEFAULT_SCOPE = ("read",)

TOPICS_MAX = 64
"""Topics one token may name."""

TEXT_MAX = 256
"""Characters that `sub` and `jti` may have."""

EXP_MAX = 2**53
"""Beyond it a number is not exact in a browser, and no expiry makes sense."""

MILLISECONDS_FROM = 1e11
"""A time from here on is no time in seconds (it would be in the year 5138); the milliseconds of today are above it."""

_RESERVED = re.compile(rf"(?:[^/:]*/)?({'|'.join(RESERVED_KINDS)}):")


MESSAGES = {
    "token_missing": "no token was given",
    "token_too_large": "the token is too long",
    "token_malformed": "the token is not a signed JWT in compact form",
    "token_algorithm": "the token is signed with an algorithm that its key is not for",
    "token_key_unknown": "no key is known under the token's key id",
    "token_keys_unavailable": "the key set could not be fetched yet",
    "token_signature": "the token's signature is wrong",
    "token_claims": "a claim is missing, malformed or too large",
    "token_expired": "the token has expired",
    "token_not_yet_valid": "the token is not valid yet",
    "token_issued_ahead": "the token was issued in the future: its iat is ahead of the clock here",
    "token_lifetime": "the token's expiry is too far ahead",
    "token_audience": "the token is for another audience",
    "token_issuer": "the token is from another issuer",
    "token_revoked": "the token was revoked",
}
"""Every code a token can be refused with, and what it means."""


@dataclass(frozen=True, slots=True)
class AuthFailure:
    """Why a token was refused. `code`, one of `MESSAGES`, is stable; no part tells what the token held.

    `hint`: what is likely wrong with the token, for its issuer; empty where nothing more is known.
    """

    code: str
    hint: str = ""

    @property
    def message(self) -> str:
        """The code as a sentence, and the hint."""
        return f"{MESSAGES[self.code]}; {self.hint}" if self.hint else MESSAGES[self.code]


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token.

    Attributes:
        sub: the subject, 1 to 256 characters.
        exp: seconds since 1970 at which the token ends.
        topics: exact names of topics, or "*"; at most 64.
        scope: of "read", "private", "console".
        jti: the token's id, empty for none.
        iat: seconds since 1970 at which it was issued; 0 where the token does not say.
        leeway_s: how long after `exp` it still counts, because the issuer's clock may be behind ours.
    """

    sub: str
    exp: float
    topics: tuple[str, ...]
    scope: tuple[str, ...] = DEFAULT_SCOPE
    jti: str = ""
    iat: float = 0
    leeway_s: float = field(default=0, compare=False)

    def may_read(self, topic: str) -> bool:
        """Whether the token opens `topic` (a checked name): with scope read, or, what gateways report to consoles, with
        scope console. No token ever opens a probe."""
        reserved = _RESERVED.match(topic)
        if reserved is not None and reserved[1] == PROBE_KIND:
            return False
        needed = "read" if reserved is None else "console"
        return needed in self.scope and (topic in self.topics or ANY_TOPIC in self.topics)

    def has(self, scope: str) -> bool:
        """Whether the token carries `scope`."""
        return scope in self.scope

    @property
    def ends_at(self) -> float:
        """Seconds since 1970 from which on the token does not count."""
        return self.exp + self.leeway_s

    def is_expired(self, now: float) -> bool:
        """Whether the token has ended at `now` (seconds since 1970); the end itself is past it."""
        return now >= self.ends_at


def read_claims(payload: Mapping[str, object], leeway_s: float = 0) -> Claims | None:
    """Return the claims of a token's decoded payload, or None where one is missing, malformed or too large.

    `scope` may be a list or, as in OAuth 2.0 (RFC 8693 section 4.2), a space separated string; scopes of other
    systems are ignored. Claims not named here are ignored.
    """
    sub, jti = payload.get("sub"), payload.get("jti", "")
    exp, iat = _seconds(payload.get("exp")), _seconds(payload.get("iat", 0))
    if not isinstance(sub, str) or not 1 <= len(sub) <= TEXT_MAX:
        return None
    if not isinstance(jti, str) or len(jti) > TEXT_MAX or exp is None or iat is None:
        return None
    topics = _topics(payload.get("topics", ()))
    scope = _scope(payload.get("scope", DEFAULT_SCOPE))
    if topics is None or scope is None:
        return None
    return Claims(sub, exp, topics, scope, jti, iat, leeway_s)


def milliseconds_hint(payload: Mapping[str, object]) -> str:
    """Return which times of a payload look like milliseconds, as a sentence; empty for none."""
    found = [
        name
        for name in ("exp", "iat", "nbf")
        if isinstance(value := payload.get(name), int | float) and value >= MILLISECONDS_FROM
    ]
    if not found:
        return ""
    return f"{'/'.join(found)} {'looks' if len(found) == 1 else 'look'} like milliseconds, JWT wants seconds"


def check_topics(topics: Iterable[str]) -> None:
    """Return when each of `topics` is "*" or a topic's name.

    Raises:
        TopicError: one is neither.
    """
    for topic in topics:
        if topic != ANY_TOPIC:
            Topic.parse(topic)


def _seconds(value: object) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), or None for anything else; true is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) and 0 <= value <= EXP_MAX else None


def _topics(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple) or len(value) > TOPICS_MAX:
        return None
    if not all(isinstance(topic, str) for topic in value):
        return None
    try:
        check_topics(value)
    except TopicError:
        return None
    return tuple(value)


def _scope(value: object) -> tuple[str, ...] | None:
    given = value.split() if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(scope, str) for scope in given):
        return None
    scopes = tuple(scope for scope in SCOPES if scope in given)
    # One shared tuple for the usual case: every open socket keeps its claims.
    return DEFAULT_SCOPE if scopes == DEFAULT_SCOPE else scopes
