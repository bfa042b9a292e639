"""The names that one installation uses in the store: its keys, and its channels.

Every name begins with the installation's prefix, so that several can share a server. A channel also names the database:
pub/sub ignores databases, and without it two of them would hear each other. The braces are literal: they are the hash
tag that keeps a topic in one slot of a Cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sync.core.errors import SyncError

DEFAULT_PREFIX = "pw"
PREFIX_MAX = 64

_PREFIX = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/-]{{0,{PREFIX_MAX - 1}}}")


class PrefixError(SyncError, ValueError):
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
class Keys:
    """The names of one installation.

    Attributes:
        prefix: what every key and channel begins with (`PLANWIRE_PREFIX`).
        database: the number of the database, 0 on a Cluster. Number 0 leaves no trace in a channel's name.
    """

    prefix: str = DEFAULT_PREFIX
    database: int = 0

    # Channels.

    @property
    def scope(self) -> str:
        """What every channel begins with: the prefix, and any database but the first."""
        # "@" cannot be part of a prefix, so no other prefix has these channels.
        return f"{self.prefix}@{self.database}" if self.database else self.prefix

    def channel(self, topic: str) -> str:
        """Return the channel on which the topic's commits are announced."""
        return f"{self.scope}:{{{topic}}}"

    @property
    def control_channel(self) -> str:
        """What every gateway hears besides topics: revocations, and questions of the console."""
        return f"{self.scope}:control"

    # Keys.

    def head(self, tag: str) -> str:
        """Return the common head of the keys with this hash tag; each key is HEAD:NAME."""
        return f"{self.prefix}:{{{tag}}}"

    def topic_of(self, head: str) -> str:
        """Return the topic, or another tag, of a head (the inverse of `head`)."""
        return head[len(self.prefix) + 2 : -1]

    def snap(self, topic: str) -> str:
        """Return the key of the hash version, rev, owner, state, private, digest, order, cause, erased."""
        return f"{self.head(topic)}:snap"

    def log(self, topic: str) -> str:
        """Return the key of the capped stream of committed versions."""
        return f"{self.head(topic)}:log"

    def seen(self, topic: str) -> str:
        """Return the key of the sorted set of event ids committed within the last seven days."""
        return f"{self.head(topic)}:seen"

    def absent(self, topic: str) -> str:
        """Return the key that stands for a while after the source has said that it has no state for the topic."""
        return f"{self.head(topic)}:absent"

    def events(self, topic: str) -> str:
        """Return the key of the capped stream of what became of the tenant's events."""
        return f"{self.head(topic)}:events"

    def provider_snapshots(self, topic: str) -> str:
        """Return the key of the hash of the provider's last answers, by subscription."""
        return f"{self.head(topic)}:sightings"

    def previews(self, topic: str) -> str:
        """Return the key of the capped stream of the tenant's previews."""
        return f"{self.head(topic)}:previews"

    def erasing(self, topic: str) -> str:
        """Return the key of the set of what leads to a tenant that is being erased."""
        return f"{self.head(topic)}:erasing"

    def timers(self, environment: str) -> str:
        """Return the key of the sorted set of tenants that may change by time alone, by when (microseconds)."""
        return f"{self.head(f'timers/{environment}')}:due"

    def audits(self, environment: str) -> str:
        """Return the key of the sorted set of tenants by when they are compared with their provider (microseconds)."""
        return f"{self.head(f'audits/{environment}')}:due"

    @property
    def reconcile(self) -> str:
        """A sorted set: topics to be compared with their provider, by the Unix time of the first request."""
        return f"{self.head('reconcile')}:wanted"

    @property
    def hydrate(self) -> str:
        """A sorted set: topics without state that somebody reads, for the worker to ask the source about."""
        return f"{self.head('hydrate')}:wanted"

    @property
    def compare(self) -> str:
        """A sorted set: topics that the worker is to compare with the source, whatever they hold."""
        return f"{self.head('hydrate')}:compare"

    @property
    def durable(self) -> str:
        """Written ahead of WAITAOF; on a Cluster a variant of it in each shard."""
        return f"{self.prefix}:durable"

    @property
    def schema(self) -> str:
        """The hash that says in which format the installation's data is; see `sync.store.checks.schema`."""
        return f"{self.head('schema')}:format"

    @property
    def counters(self) -> str:
        """The hash of rare counts that several processes add to."""
        return f"{self.head('tallies')}:counts"

    @property
    def revoked(self) -> str:
        """The sorted set of revocations, by the instant of each."""
        return f"{self.head('control')}:revoked"

    @property
    def ended_logins(self) -> str:
        """The sorted set of ended logins at the console, by the instant of each.

        A set of its own: however often somebody logs out, no revocation is pushed out by it.
        """
        return f"{self.head('control')}:logins"


DEFAULT_KEYS = Keys()
"""The names of an installation that has a server's database 0 for itself."""
