"""The names that one installation uses in the store: its keys, and its channels.

Every name begins with the installation's prefix, so that several can share a server. A channel also names the database:
pub/sub ignores databases, and without it two of them would hear each other. The braces are literal: they are the hash
tag that keeps a topic in one slot of a Cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from planwire_client.core.names import Names


@dataclass(frozen=True, slots=True)
class Keys(Names):
    """The names of one installation: those of a commit, and the servers' own."""

    @property
    def control_channel(self) -> str:
        """What every gateway hears besides topics: revocations, and questions of the console."""
        return f"{self.scope}:control"

    def topic_of(self, head: str) -> str:
        """Return the topic, or another tag, of a head (the inverse of `head`)."""
        return head[len(self.prefix) + 2 : -1]

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
