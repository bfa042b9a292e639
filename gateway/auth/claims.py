"""What a verified token says: who, until when, which topics, with which scopes. Pure; verifies no signature."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from planwire_client.core.topic import PROBE_KIND, RESERVED_KINDS, Topic

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

    @property
    def ends_at(self) -> float:
        """Seconds since 1970 from which on the token does not count."""
        return self.exp + self.leeway_s

    def is_expired(self, now: float) -> bool:
        """Whether the token has ended at `now` (seconds since 1970); the end itself is past it."""
        return now >= self.ends_at


def check_topics(topics: Iterable[str]) -> tuple[str, ...]:
    """Return `topics`, each of which is "*" or a topic's name.

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
    """Return the claims of a token's decoded payload, or None where one is missing, malformed or too large.

    `scope` may be a list or, as in OAuth 2.0 (RFC 8693 section 4.2), a space separated string; scopes of other
    systems are ignored.
    """
    try:
        read: dict[str, Any] = _validate(payload, strict=True)
    except ValidationError:
        return None
    given = read.get("scope", DEFAULT_SCOPE)
    scope = tuple(scope for scope in SCOPES if scope in given)
    # One shared tuple for the usual case: every open socket keeps its claims.
    scope = DEFAULT_SCOPE if scope == DEFAULT_SCOPE else scope
    return Claims(
        read["sub"], read["exp"], read.get("topics", ()), scope, read.get("jti", ""), read.get("iat", 0.0), leeway_s
    )


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
