"""The names that one installation uses in the store: its keys, and its channels.

Every name begins with the installation's prefix, so that several can share a server. A channel also names the database:
pub/sub ignores databases, and without it two of them would hear each other. The braces are literal: they are the hash
tag that keeps a topic in one slot of a Cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from planwire_client.core.commit import Names


@dataclass(frozen=True, slots=True)
class Keys(Names):
    """The names of one installation: those of a commit, and the servers' own."""

    @property
    def control_channel(self) -> str:
        """What every gateway hears besides topics: revocations, and questions of the console."""
        return f"{self.scope}:control"

    # Each docstring below says what the key holds, and its bound: a TTL, a cap, or what removes it. Those of a commit
    # (snap: kept; log: capped at 200; seen: TTL 7 days, also of each member) are in `Names`.

    def topic_of(self, head: str) -> str:
        """Return the topic, or another tag, of a head (the inverse of `head`)."""
        return head[len(self.prefix) + 2 : -1]

    # Of a topic: the topic is the hash tag.

    def absent(self, topic: str) -> str:
        """Set while the source's answer that it has no state counts. TTL 10 s (`source.hydration.ABSENT_S`)."""
        return f"{self.head(topic)}:absent"

    def events(self, topic: str) -> str:
        """Stream of the outcomes of a tenant's events. Capped at about 200."""
        return f"{self.head(topic)}:events"

    def provider_snapshots(self, topic: str) -> str:
        """Hash of the provider's last answers, by subscription. One field per subscription; goes with the erasure."""
        return f"{self.head(topic)}:sightings"

    def previews(self, topic: str) -> str:
        """Stream of a tenant's previews. Capped at 100; TTL 1 h."""
        return f"{self.head(topic)}:previews"

    def erasing(self, topic: str) -> str:
        """Set of what leads to a tenant that is being erased. Removed at the end of the erasure."""
        return f"{self.head(topic)}:erasing"

    # Of an environment.

    def inbox(self, environment: str, name: str) -> str:
        """The inbox, by name.

        pending: sorted set of events by their next attempt (microseconds). Members go when they are done or parked.
        parked: sorted set of events by when they were parked. Members go when they are done.
        waiting: sorted set of `WAITS_ON\\nEVENT_ID`, by name. Members go with the wait.
        event:ID: hash of one event. TTL 7 days once done; a parked one is kept.
        """
        return f"{self.head(f'inbox/{environment}')}:{name}"

    def link(self, environment: str, subject: str) -> str:
        """The tenant of a subscription (string), or the tenants of a customer (set). One key each, kept for ever."""
        return self.head(f"link/{environment}/{subject}")

    def tenants(self, environment: str) -> str:
        """Set of the topics that events have made. A member goes with the erasure."""
        return f"{self.head(f'tenants/{environment}')}:topics"

    def tenants_walk(self, environment: str, work: str, name: str) -> str:
        """`lease` of the worker that walks all tenants for a piece of work, TTL 30 s; `done`: what for, TTL 60 s."""
        return f"{self.head(f'tenants/{environment}')}:{work}:{name}"

    def timers(self, environment: str) -> str:
        """Queue of tenants that may change by time alone. One member per tenant at most."""
        return f"{self.head(f'timers/{environment}')}:due"

    def audits(self, environment: str) -> str:
        """Queue of tenants by when they are next compared with their provider. One member per tenant at most."""
        return f"{self.head(f'audits/{environment}')}:due"

    def drift(self, environment: str, name: str) -> str:
        """`records`: stream of drift records, capped; `counts`: hash of their numbers, one field per kind."""
        return f"{self.head(f'drift/{environment}')}:{name}"

    def backfill(self, environment: str, provider: str, name: str) -> str:
        """Progress of a backfill: counts, parked, made (removed when it is complete), lease (TTL 4 s)."""
        return f"{self.head(f'backfill/{environment}/{provider}')}:{name}"

    def provider_events(self, environment: str, provider: str, name: str) -> str:
        """`cursor`: the last event read from the provider's list, kept; `lease` of who reads on, TTL 120 s."""
        return f"{self.head(f'events/{environment}/{provider}')}:{name}"

    def budget(self, environment: str, provider: str, name: str) -> str:
        """The rate limit of a provider's API. TTL: until it is full again, or until the pause is over."""
        return f"{self.head(f'budget/{environment}/{provider}')}:{name}"

    # Of the installation.

    @property
    def reconcile(self) -> str:
        """Queue of topics to be compared with their provider or source. One member per topic at most."""
        return f"{self.head('reconcile')}:wanted"

    @property
    def hydrate(self) -> str:
        """Queue of topics without state that somebody reads, for the worker to ask the source about."""
        return f"{self.head('hydrate')}:wanted"

    @property
    def compare(self) -> str:
        """Queue of topics that the worker compares with the source, whatever they hold."""
        return f"{self.head('hydrate')}:compare"

    @staticmethod
    def claims(queue: str) -> str:
        """Hash of the claims of a delayed queue: tokens and generations by member. TTL: twice the lease."""
        return f"{queue}:claims"

    @property
    def durable(self) -> str:
        """Written ahead of WAITAOF; on a Cluster a variant of it in each shard. One byte."""
        return f"{self.prefix}:durable"

    @property
    def counters(self) -> str:
        """Hash of rare counts that several processes add to. One field per name and labels."""
        return f"{self.head('tallies')}:counts"

    @property
    def revoked(self) -> str:
        """Sorted set of revocations, by the instant of each. Capped; TTL: that of the longest."""
        return f"{self.head('control')}:revoked"

    @property
    def ended_logins(self) -> str:
        """Sorted set of ended logins at the console, by the instant of each. Bounded as `revoked`.

        It is separate so that no number of logouts pushes out a revocation.
        """
        return f"{self.head('control')}:logins"

    def acks(self, question: str) -> str:
        """List of the gateways' counts of acknowledgements. TTL: seconds."""
        return self.head(f"acks:{question}")

    def answers(self, question: str) -> str:
        """List of the gateways' answers to a console. TTL: seconds."""
        return f"{self.head(f'console/{question}')}:answers"

    def console(self, name: str) -> str:
        """The consoles': `refused`, `audit` (both capped); `leases`, `gateways` (members go within a minute)."""
        return f"{self.head('console')}:{name}"


DEFAULT_KEYS = Keys()
"""The names of an installation that has a server's database 0 for itself."""
