"""Publish keys: their names, rights and rates. Pure; only hashes of keys are stored.

A grant is `NAME:SCOPE[+SCOPE]:PATTERN`: the key NAME has these scopes on the topics that match PATTERN. A pattern is a
topic's name, or a prefix followed by `*`, so matching is linear in the name's length.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from planwire_client.core.topic import ID_BYTE, ID_MAX_BYTES, LIVE, TopicError, read_topic, shown

KEY_MAX_CHARS = 512
"""Maximum characters of a presented key; a longer one is rejected."""

BURST_S = 1.0
"""Burst of a key, as seconds of its rate."""

ANY = "*"
"""The pattern of all topics in all environments. As a topic: the request concerns all topics."""

GRANTS_PER_KEY_MAX = 64

KEY_NAME = r"[A-Za-z0-9._-]{1,64}"
"""Pattern of a publish key's name."""

_SEGMENT = r"[a-z][a-z0-9_-]{0,31}"
_PATTERN = re.compile(
    rf"\*|(?P<env>{_SEGMENT})/\*|(?:(?P<topic_env>{_SEGMENT})/)?{_SEGMENT}:(?:{ID_BYTE}{{1,{ID_MAX_BYTES}}}|{ID_BYTE}{{0,{ID_MAX_BYTES}}}\*)"
)
_GRANT = re.compile(rf"({KEY_NAME}):([a-z+]{{1,64}}):(.{{1,512}})")


class Scope(StrEnum):
    """A kind of operation that a grant allows on the topics of its pattern."""

    PUBLISH = "publish"  # write states; request a topic from the source
    USAGE = "usage"  # count and read what tenants use of their limits
    TENANTS = "tenants"  # read and change billing's data of tenants
    ADMIN = "admin"  # erase, override, revoke


class Denial(NamedTuple):
    """Why a key lacks a right: a problem code of the API, and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of PLANWIRE_PUBLISH_RIGHTS: the name of a key, scopes, and a pattern."""

    key: str
    scopes: tuple[Scope, ...]
    pattern: str

    def __str__(self) -> str:
        return f"{self.key}:{'+'.join(self.scopes)}:{self.pattern}"


def parse_grants(entries: Iterable[str]) -> tuple[Grant, ...]:
    """Return the grants in the entries of PLANWIRE_PUBLISH_RIGHTS. A key may have several.

    Raises:
        ValueError: an entry is malformed, or a key has more than GRANTS_PER_KEY_MAX.
    """
    grants = tuple(map(_grant, entries))
    for key, count in Counter(grant.key for grant in grants).items():
        if count > GRANTS_PER_KEY_MAX:
            raise ValueError(f"the key {key} has {count} entries; at most {GRANTS_PER_KEY_MAX} are allowed")
    return grants


def _grant(entry: str) -> Grant:
    match = _GRANT.fullmatch(entry)
    if match is None:
        raise ValueError(f"{entry[:200]!r} is not NAME:SCOPE+SCOPE:PATTERN, such as prefs:publish:prefs:*")
    key, scopes, pattern = match.groups()
    known = {scope.value for scope in Scope}
    unknown = next((scope for scope in scopes.split("+") if scope not in known), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} in the entry of {key} is not a scope: {', '.join(Scope)}")
    found = _PATTERN.fullmatch(pattern)
    if found is None or LIVE in (found["env"], found["topic_env"]):
        raise ValueError(
            f"{shown(pattern)} in the entry of {key} is not a pattern such as tenant:acme, prefs:*, sandbox/tenant:*"
            f" or * (the * comes last; live is written without a prefix){_advice(pattern)}"
        )
    return Grant(key, tuple(scope for scope in Scope if scope in scopes.split("+")), pattern)


def _advice(pattern: str) -> str:
    """Return how a pattern is written whose id is not encoded; empty if that is not what is wrong with it."""
    head, star = pattern.removesuffix(ANY), ANY if pattern.endswith(ANY) else ""
    try:
        return f": write {read_topic(head)}{star}"
    except TopicError:
        return ""


class Rights:
    """The rights of one key."""

    __slots__ = ("_beginnings", "_names")

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._names: dict[Scope, frozenset[str]] = {}
        self._beginnings: dict[Scope, tuple[str, ...]] = {}  # str.startswith takes them all in one call
        for scope in Scope:
            patterns = [grant.pattern for grant in grants if scope in grant.scopes]
            self._names[scope] = frozenset(one for one in patterns if not one.endswith(ANY))
            self._beginnings[scope] = tuple(one.removesuffix(ANY) for one in patterns if one.endswith(ANY))

    def cover(self, scope: Scope, topic: str) -> bool:
        """Return whether the scope is granted on a topic.

        Args:
            scope: the scope.
            topic: a checked name, ANY for all topics, or `[env/]kind:*` for all topics of a kind. A topic's name has no
                star, so only a pattern for at least as many topics covers the last two.
        """
        return topic in self._names[scope] or topic.startswith(self._beginnings[scope])

    def denial(self, key: str, scope: Scope, topic: str | None = None) -> Denial | None:
        """Return why the scope is not granted; None if it is.

        Args:
            key: the name of the key, for the sentence.
            scope: the scope.
            topic: as for `cover`; None checks that the scope is granted on any topic at all.
        """
        if not self._names[scope] and not self._beginnings[scope]:
            return Denial("scope_missing", f"the key {key} does not have the scope {scope}")
        if topic is not None and not self.cover(scope, topic):
            return Denial("topic_forbidden", f"the scope {scope} of the key {key} does not cover {topic}")
        return None


EVERYTHING = Rights([Grant("", tuple(Scope), ANY)])
"""The rights of a key without grants."""


class TokenBucket:
    """A token bucket. Time is an argument, in seconds of any monotonic clock."""

    __slots__ = ("_at", "_burst", "_credit", "rate")

    def __init__(self, rate: float, burst_s: float) -> None:
        """Start with a full bucket.

        Args:
            rate: units per second.
            burst_s: size of the bucket, as seconds of the rate; at least one unit.
        """
        self.rate = rate
        self._burst = self._credit = max(1.0, rate * burst_s)
        self._at = 0.0

    def take(self, units: float, now: float) -> float:
        """Take `units` and return 0.0; if there are too few, take nothing and return the seconds to wait.

        A full bucket gives more units than it has and goes into debt. A batch larger than the burst is thus slowed down
        instead of refused for ever.
        """
        credit = min(self._burst, self._credit + max(0.0, now - self._at) * self.rate)
        self._credit, self._at = credit, now
        missing = min(units, self._burst) - credit
        # Tolerate rounding errors: waiting for exactly the returned time must be enough.
        if missing > 1e-9:
            return missing / self.rate
        self._credit = credit - units
        return 0.0


@dataclass(slots=True)
class PublishKey:
    """One backend's key: its name (for causes and logs), its SHA-256, its rate in this process, and its rights."""

    name: str
    digest: bytes = field(repr=False)
    bucket: TokenBucket
    rights: Rights = EVERYTHING


class PublishKeys:
    """The configured publish keys."""

    def __init__(
        self, entries: Iterable[tuple[str, str, float | None]], grants: Iterable[Grant] = (), *, default_rate: float
    ) -> None:
        """Create the keys with their rates and rights.

        Args:
            entries: name, SHA-256 hex and requests per second of each key (None: `default_rate`).
            grants: the rights of the keys. A key without a grant may do everything.
            default_rate: requests per second; each publish of a batch counts as one.
        """
        by_key: dict[str, list[Grant]] = {}
        for grant in grants:
            by_key.setdefault(grant.key, []).append(grant)
        self._keys = []
        for name, digest, rate in entries:
            per_s = rate or default_rate
            rights = Rights(by_key[name]) if name in by_key else EVERYTHING
            self._keys.append(PublishKey(name, bytes.fromhex(digest), TokenBucket(per_s, BURST_S), rights))

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: str) -> PublishKey | None:
        """Return the key with this text, or None. The time does not depend on which key matches, if any."""
        if not presented or len(presented) > KEY_MAX_CHARS:
            return None
        digest = hash_key(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def hash_key(key: str) -> bytes:
    """Return the SHA-256 of a key's text. PLANWIRE_PUBLISH_KEYS has its hex form.

    Plain SHA-256 is safe for long random keys, but not for passwords: generate the keys.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
