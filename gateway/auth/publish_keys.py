"""Publish keys: whose they are, what each may do, and how fast. Pure; knows hashes only, never a key.

A grant is `NAME:SCOPE[+SCOPE]:PATTERN`: the key of that name has these scopes on the topics of this pattern. A pattern
is a topic's name, or the beginning of names followed by `*`, so that matching is linear in the name's length.
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

from planwire_client.core.topic import LIVE

KEY_MAX_CHARS = 512
"""Characters of a presented key that are looked at; a longer one is wrong."""

BURST_S = 1.0
"""A key may use this many seconds' worth of its rate at once."""

ANY = "*"
"""The pattern of every topic in every environment; as a topic, what a request is about that concerns all of them."""

GRANTS_PER_KEY_MAX = 64

KEY_NAME = r"[A-Za-z0-9._-]{1,64}"
"""The name of a publish key."""

_SEGMENT = r"[a-z][a-z0-9_-]{0,31}"
_ID = r"[A-Za-z0-9._~@%-]"
_PATTERN = re.compile(
    rf"\*|(?P<env>{_SEGMENT})/\*|(?:(?P<topic_env>{_SEGMENT})/)?{_SEGMENT}:(?:{_ID}{{1,384}}|{_ID}{{0,384}}\*)"
)
_GRANT = re.compile(rf"({KEY_NAME}):([a-z+]{{1,64}}):(.{{1,512}})")


class Scope(StrEnum):
    """What a key may do to the topics of a pattern."""

    PUBLISH = "publish"  # write states; have the source asked about a topic
    TENANTS = "tenants"  # read and change what billing knows of tenants
    ADMIN = "admin"  # erase, override, revoke


class Denial(NamedTuple):
    """Why a key may not do something: a code of the API's problems, and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of the setting: the name of a key, scopes, and a pattern."""

    key: str
    scopes: tuple[Scope, ...]
    pattern: str

    def __str__(self) -> str:
        return f"{self.key}:{'+'.join(self.scopes)}:{self.pattern}"


def parse_grants(entries: Iterable[str]) -> tuple[Grant, ...]:
    """Return the grants of the entries of a setting; a key may have several.

    Raises:
        ValueError: an entry has another form, or a key has more than GRANTS_PER_KEY_MAX.
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
            f"{pattern!r} in the entry of {key} is not a pattern such as tenant:acme, prefs:*, sandbox/tenant:* or *"
            " (the * comes last; live is written without a prefix)"
        )
    return Grant(key, tuple(scope for scope in Scope if scope in scopes.split("+")), pattern)


class Rights:
    """What one key may do."""

    __slots__ = ("_beginnings", "_names")

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._names: dict[Scope, frozenset[str]] = {}
        self._beginnings: dict[Scope, tuple[str, ...]] = {}  # one call of str.startswith looks at all of them
        for scope in Scope:
            patterns = [grant.pattern for grant in grants if scope in grant.scopes]
            self._names[scope] = frozenset(one for one in patterns if not one.endswith(ANY))
            self._beginnings[scope] = tuple(one.removesuffix(ANY) for one in patterns if one.endswith(ANY))

    def cover(self, scope: Scope, topic: str) -> bool:
        """Return whether the scope is granted on a topic.

        Args:
            scope: what is to be done.
            topic: a checked name; or ANY for all topics, or `[env/]kind:*` for all of that kind. No name has a star in
                it, so only a pattern that has all of them covers such a one.
        """
        return topic in self._names[scope] or topic.startswith(self._beginnings[scope])

    def denial(self, key: str, scope: Scope, topic: str | None = None) -> Denial | None:
        """Return why the key may not do this; None: it may.

        Args:
            key: the name of the key whose rights these are.
            scope: what is to be done.
            topic: as for `cover`; None asks whether there is any topic on which the scope is granted.
        """
        if not self._names[scope] and not self._beginnings[scope]:
            return Denial("scope_missing", f"the key {key} does not have the scope {scope}")
        if topic is not None and not self.cover(scope, topic):
            return Denial("topic_forbidden", f"the scope {scope} of the key {key} does not cover {topic}")
        return None


EVERYTHING = Rights([Grant("", tuple(Scope), ANY)])
"""What a key may do whose rights are not set: everything, as before there were rights."""


class TokenBucket:
    """A rate: units a second, and those of `burst_s` at once. Time is an argument, in seconds of any steady clock."""

    __slots__ = ("_at", "_burst", "_credit", "rate")

    def __init__(self, rate: float, burst_s: float) -> None:
        """Start full."""
        self.rate = rate
        self._burst = self._credit = max(1.0, rate * burst_s)
        self._at = 0.0

    def take(self, units: float, now: float) -> float:
        """Return 0.0 having taken `units`, or the seconds until they can be had, having taken nothing.

        More than `burst` units are had when the bucket is full, and put it in debt: a batch larger than the burst is
        slow, not impossible.
        """
        credit = min(self._burst, self._credit + max(0.0, now - self._at) * self.rate)
        self._credit, self._at = credit, now
        missing = min(units, self._burst) - credit
        # A hair of tolerance: credit grows by rounded steps, and a wait of nothing must be enough.
        if missing > 1e-9:
            return missing / self.rate
        self._credit = credit - units
        return 0.0


@dataclass(slots=True)
class PublishKey:
    """One backend's key: its `name` for causes and logs, its SHA-256, its rate in this process, and its rights."""

    name: str
    digest: bytes = field(repr=False)
    bucket: TokenBucket
    rights: Rights = EVERYTHING


class PublishKeys:
    """The configured publish keys."""

    def __init__(
        self, entries: Iterable[tuple[str, str, float | None]], grants: Iterable[Grant] = (), *, default_rate: float
    ) -> None:
        """Take the keys and their rights.

        Args:
            entries: name, SHA-256 hex and requests per second of each key (None: `default_rate`).
            grants: what the keys may do. A key that none of them names may do everything.
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
        """Return the key that was presented, or None. Takes the same time whichever key is meant, right or wrong."""
        if not presented or len(presented) > KEY_MAX_CHARS:
            return None
        digest = hash_key(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def hash_key(key: str) -> bytes:
    """Return the SHA-256 of a key's text; its hex form is what PUBLISH_KEYS takes.

    Plain SHA-256 is right for keys that are long and random, and wrong for passwords: generate the keys.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
