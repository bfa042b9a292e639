"""The names of topics in the store: keys and channels. Pure.

Every name begins with the installation's prefix, so that several can share a server. A channel also names the database:
pub/sub ignores databases. The braces are literal: they are the hash tag that keeps a topic in one slot of a Cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PREFIX = "pw"
PREFIX_MAX = 64

_PREFIX = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/-]{{0,{PREFIX_MAX - 1}}}")


class PrefixError(ValueError):
    """The text cannot be a prefix; `str()` says what one is."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return (
            f"{self.text[:80]!r} is not a prefix: it has 1 to {PREFIX_MAX} of the characters A-Z a-z 0-9 . _ : / -"
            " and begins with a letter or digit (no braces, no blanks)"
        )


def check_prefix(text: str) -> str:
    """Return `text` when it can be the prefix of keys and channels.

    Raises:
        PrefixError: it cannot.
    """
    if not _PREFIX.fullmatch(text):
        raise PrefixError(text)
    return text


@dataclass(frozen=True, slots=True)
class Names:
    """The names that everybody needs who commits to one installation.

    Attributes:
        prefix: what every key and channel begins with (`PLANWIRE_PREFIX`).
        database: the number of the database, 0 on a Cluster. Number 0 leaves no trace in a channel's name.
    """

    prefix: str = DEFAULT_PREFIX
    database: int = 0

    @property
    def scope(self) -> str:
        """What every channel begins with: the prefix, and any database but the first."""
        # "@" cannot be part of a prefix, so no other prefix has these channels.
        return f"{self.prefix}@{self.database}" if self.database else self.prefix

    def channel(self, topic: str) -> str:
        """Return the channel on which the topic's commits are announced."""
        return f"{self.scope}:{{{topic}}}"

    def head(self, tag: str) -> str:
        """Return the common head of the keys with this hash tag; each key is HEAD:NAME."""
        return f"{self.prefix}:{{{tag}}}"

    @property
    def schema(self) -> str:
        """Hash of the format of the installation's data; see `sync.store.checks.inspection`. Two fields."""
        return f"{self.head('schema')}:format"

    def snap(self, topic: str) -> str:
        """Return the key of the hash version, rev, owner, state, private, digest, order, cause, erased."""
        return f"{self.head(topic)}:snap"

    def log(self, topic: str) -> str:
        """Return the key of the capped stream of committed versions."""
        return f"{self.head(topic)}:log"

    def seen(self, topic: str) -> str:
        """Return the key of the sorted set of event ids committed within the last seven days."""
        return f"{self.head(topic)}:seen"
