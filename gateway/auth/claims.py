"""Claims of a verified token: subject, expiry, topics, scopes. Pure; signatures are verified in `tokens`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from planwire_client.core.topic import PROBE_KIND, RESERVED_KINDS, Topic, matched, tenant_of

ANY_TOPIC = "*"
"""The entry of `topics` that means every topic that the scopes open, except the gateways' probes."""

SCOPES = ("read", "private", "console")
DEFAULT_SCOPE = ("read",)

TOPICS_MAX = 64
"""Maximum number of topics in one token."""

TEXT_MAX = 256
"""Maximum characters of `sub` and `jti`."""

EXP_MAX = 2**53
"""Largest `exp` and `iat`. Larger numbers are not exact in a browser."""

MILLISECONDS_FROM = 1e11
"""A time from this value on is taken for milliseconds: in seconds it would be in the year 5138."""

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
"""Failure code of a refused token -> its meaning."""


@dataclass(frozen=True, slots=True)
class AuthFailure:
    """Why a token was refused. No part of it shows the token's content.

    Attributes:
        code: a stable code, one of `MESSAGES`.
        hint: for the issuer, the likely mistake in the token; empty if unknown.
    """

    code: str
    hint: str = ""

    @property
    def message(self) -> str:
        """The code's meaning, followed by the hint."""
        return f"{MESSAGES[self.code]}; {self.hint}" if self.hint else MESSAGES[self.code]


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token.

    Attributes:
        sub: the subject, 1 to 256 characters.
        exp: the expiry, seconds since 1970.
        topics: exact topic names, or "*"; at most 64.
        scope: some of "read", "private", "console".
        jti: the token's id, empty for none.
        iat: the time of issue, seconds since 1970; 0 if absent.
        leeway_s: seconds after `exp` for which it is still valid, because the issuer's clock may be behind ours.
    """

    sub: str
    exp: float
    topics: tuple[str, ...]
    scope: tuple[str, ...] = DEFAULT_SCOPE
    jti: str = ""
    iat: float = 0
    leeway_s: float = field(default=0, compare=False)

    def may_read(self, topic: str) -> bool:
        """Whether the token opens `topic`, a checked name.

        Topics need the scope read; the gateways' reports to consoles need the scope console. No token opens a probe.
        A token for a tenant opens its usage, too.
        """
        reserved = _RESERVED.match(topic)
        if reserved is not None and reserved[1] == PROBE_KIND:
            return False
        needed = "read" if reserved is None else "console"
        if needed not in self.scope:
            return False
        return topic in self.topics or ANY_TOPIC in self.topics or tenant_of(topic) in self.topics

    @property
    def ends_at(self) -> float:
        """When the token stops being valid, seconds since 1970: `exp` plus the leeway."""
        return self.exp + self.leeway_s

    def is_expired(self, now: float) -> bool:
        """Whether the token has expired at `now` (seconds since 1970). At exactly `ends_at` it has."""
        return now >= self.ends_at


def check_topics(topics: Iterable[str]) -> tuple[str, ...]:
    """Return `topics` as a tuple after checking that each is "*" or a topic's name.

    Raises:
        TopicError: one is neither.
    """
    found = tuple(topics)
    for topic in found:
        if topic != ANY_TOPIC:
            Topic.parse(topic)
    return found


def _words(scope: object) -> object:
    return scope.split() if isinstance(scope, str) else scope


_Seconds = Annotated[float, Field(ge=0, le=EXP_MAX, allow_inf_nan=False)]
"""A NumericDate (RFC 7519 section 2)."""


class _Payload(TypedDict):
    """A token's decoded payload. Claims not named here are ignored."""

    sub: Annotated[str, Field(min_length=1, max_length=TEXT_MAX)]
    exp: _Seconds
    iat: NotRequired[_Seconds]
    nbf: NotRequired[float]
    jti: NotRequired[Annotated[str, Field(max_length=TEXT_MAX)]]
    topics: NotRequired[Annotated[list[str], Field(max_length=TOPICS_MAX), AfterValidator(check_topics)]]
    scope: NotRequired[Annotated[list[str], BeforeValidator(_words)]]


_validate = TypeAdapter(_Payload).validator.validate_python


def read_claims(payload: Mapping[str, object], leeway_s: float = 0) -> Claims | None:
    """Return the claims of a token's decoded payload, or None if one is missing, malformed or too large.

    `scope` may be a list or, as in OAuth 2.0 (RFC 8693 section 4.2), a space separated string. Unknown scopes are
    ignored.
    """
    try:
        read: dict[str, Any] = _validate(payload, strict=True)
    except ValidationError:
        return None
    given = read.get("scope", DEFAULT_SCOPE)
    scope = tuple(scope for scope in SCOPES if scope in given)
    # Share one tuple for the usual case, because every open socket keeps its claims.
    scope = DEFAULT_SCOPE if scope == DEFAULT_SCOPE else scope
    return Claims(
        read["sub"], read["exp"], read.get("topics", ()), scope, read.get("jti", ""), read.get("iat", 0.0), leeway_s
    )


def topics_hint(payload: Mapping[str, object]) -> str:
    """Return a sentence if the topics of a payload are not spelled as topics; empty if they are."""
    topics = payload.get("topics")
    names = [one for one in topics if isinstance(one, str) and one != ANY_TOPIC] if isinstance(topics, list) else []
    if all(map(matched, names)):
        return ""
    return "topics must be topics' names: ids are percent-encoded, as topic() of the clients does"


def milliseconds_hint(payload: Mapping[str, object]) -> str:
    """Return a sentence naming the times of a payload that look like milliseconds; empty if none does."""
    found = [
        name
        for name in ("exp", "iat", "nbf")
        if isinstance(value := payload.get(name), int | float) and value >= MILLISECONDS_FROM
    ]
    if not found:
        return ""
    return f"{'/'.join(found)} {'looks' if len(found) == 1 else 'look'} like milliseconds, JWT wants seconds"
