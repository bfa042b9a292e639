"""What a publish key may do: its scopes, each on the topics that patterns name. Pure.

A grant is `NAME:SCOPE[+SCOPE]:PATTERN`: the key of that name has these scopes on the topics of this pattern. A pattern
is a topic's name, or the beginning of names followed by `*`, so that matching is linear in the name's length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from planwire_client.core.topic import LIVE

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

    def __init__(self, grants: Iterable[Grant]) -> None:
        names: dict[Scope, set[str]] = {}
        beginnings: dict[Scope, set[str]] = {}
        for grant in grants:
            for scope in grant.scopes:
                if grant.pattern.endswith(ANY):
                    beginnings.setdefault(scope, set()).add(grant.pattern.removesuffix(ANY))
                else:
                    names.setdefault(scope, set()).add(grant.pattern)
        self._names = {scope: frozenset(found) for scope, found in names.items()}
        # One call of str.startswith looks at all of them.
        self._beginnings = {scope: tuple(sorted(found)) for scope, found in beginnings.items()}

    def has(self, scope: Scope) -> bool:
        """Return whether there is any topic on which this scope is granted."""
        return scope in self._names or scope in self._beginnings

    def cover(self, scope: Scope, topic: str) -> bool:
        """Return whether the scope is granted on a topic.

        Args:
            scope: what is to be done.
            topic: a checked name; or ANY for all topics, or `[env/]kind:*` for all of that kind. No name has a star in
                it, so only a pattern that has all of them covers such a one.
        """
        return topic in self._names.get(scope, ()) or topic.startswith(self._beginnings.get(scope, ()))

    def denial(self, key: str, scope: Scope, topic: str) -> Denial | None:
        """Return why the key named `key`, whose rights these are, may not do this; None: it may."""
        if self.cover(scope, topic):
            return None
        return self.missing(key, scope) or Denial(
            "topic_forbidden", f"the scope {scope} of the key {key} does not cover {topic}"
        )

    def missing(self, key: str, scope: Scope) -> Denial | None:
        """Return the denial of everything that needs `scope`, where no topic has it; else None."""
        return None if self.has(scope) else Denial("scope_missing", f"the key {key} does not have the scope {scope}")


EVERYTHING = Rights([Grant("", tuple(Scope), ANY)])
"""What a key may do whose rights are not set: everything, as before there were rights."""
