"""The names of one installation's keys and channels in the store.

Every name begins with the installation's prefix, so that several installations can share a server. A channel's name
also has the database's number, since pub/sub ignores databases. The braces are literal: they mark the hash tag, which
keeps a topic in one slot of a Cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from planwire_client.core.commit import Names
from planwire_client.core.topic import TENANT_KIND, USAGE_KIND, usage_topic


@dataclass(frozen=True, slots=True)
class Keys(Names):
    """The names of one installation: those of a commit (`Names`), and those that only the servers use."""

    @property
    def control_channel(self) -> str:
        """Channel of all gateways: revocations, and the console's questions."""
        return f"{self.scope}:control"

    # Each docstring below has the key's content and its bound: a TTL, a cap, or the event that removes it. The keys of
    # a commit are in `Names` (snap: kept; log: capped at 200; seen: TTL 7 days, also for each member,
    # and capped at 10,000).

    def topic_of(self, head: str) -> str:
        """Return the topic, or another hash tag, of a head (the inverse of `head`)."""
        tag, _, usage = head[len(self.prefix) + 2 :].partition("}")
        return tag.replace(f"{TENANT_KIND}:", f"{USAGE_KIND}:", 1) if usage else tag

    # Keys of a topic: the topic is the hash tag.

    def absent(self, topic: str) -> str:
        """Mark that the source has no state for the topic. TTL 10 s (`source.hydration.ABSENT_S`)."""
        return f"{self.head(topic)}:absent"

    def asked(self, topic: str, what: str) -> str:
        """Mark that the topic's provider was just asked for `state` or `checkout`. TTL: a cool-down, seconds.

        `foreign`: number of checkouts that were not the topic's. TTL 10 min.
        `same`: number of comparisons in a row that found no difference. TTL 60 s.
        """
        return f"{self.head(topic)}:asked:{what}"

    def checkout_read(self, topic: str, checkout: str) -> str:
        """Since when a tenant's checkout is being read (microseconds), or what came of it. TTL 10 min."""
        return f"{self.head(topic)}:checkout:{checkout}"

    def searched(self, topic: str) -> str:
        """Mark that a search for the topic in the provider's list was requested on weak evidence. TTL 1 day."""
        return f"{self.head(topic)}:searched"

    def events(self, topic: str) -> str:
        """Stream of the outcomes of a tenant's events. Capped at about 200."""
        return f"{self.head(topic)}:events"

    def provider_snapshots(self, topic: str) -> str:
        """Hash of the provider's last answers, by subscription. One field per subscription; removed by the erasure."""
        return f"{self.head(topic)}:sightings"

    def previews(self, topic: str) -> str:
        """Stream of a tenant's previews. Capped at 100; TTL 1 h."""
        return f"{self.head(topic)}:previews"

    def delivered(self, topic: str) -> str:
        """Hash of what endpoints were told: NAME -> version, NAME:reached -> id of a threshold.

        Two fields for each endpoint; removed by the erasure.
        """
        return f"{self.head(topic)}:delivered"

    def usage(self, tenant: str, name: str) -> str:
        """What a tenant has used, by name (`usage_meters.lua` has the contents). Removed by the erasure.

        meters: hash; six fields, and four for each meter of the catalog.
        keys, order: calls by their keys. 1 day; beyond 10,000 the last minute's, 100,000 at most.
        holds, expiry: reservations; 1,000, 1 day at most.
        calls: the newest 120. periods: about 400. crossings: about 100. adjustments: about 200.
        lost: a version and state that a gateway holds and the store has lost. TTL 60 s.
        """
        return f"{self.head(usage_topic(tenant))}:{name}"

    def erasing(self, topic: str) -> str:
        """Set of the links to a tenant during its erasure. Removed at the end of the erasure."""
        return f"{self.head(topic)}:erasing"

    # Keys of an environment.

    def inbox(self, environment: str, name: str) -> str:
        """The inbox, by name.

        pending: sorted set of events by their next attempt (microseconds). Members are removed when done or parked.
        parked: sorted set of events by the time they were parked. Members are removed when done.
        waiting: sorted set of `WAITS_ON\\nEVENT_ID`, by name. Members are removed when the wait ends.
        event:ID: hash of one event. TTL 7 days once done; a parked event is kept.
        """
        return f"{self.head(f'inbox/{environment}')}:{name}"

    def link(self, environment: str, subject: str) -> str:
        """The tenant of a subscription (string). Older builds: the tenants of a customer (set). Kept forever."""
        return self.head(f"link/{environment}/{subject}")

    def names(self, environment: str, subject: str) -> str:
        """Hash of the names of a subscription's tenant. A dozen fields; kept as long as the link."""
        return f"{self.link(environment, subject)}:names"

    def quote(self, environment: str, subject: str) -> str:
        """Hash of what was quoted for a subscription's changes, and the bills compared with it. TTL: until its renewal.

        PREVIEW: a quote, 8 at most. PREVIEW:change, PREVIEW:renewal: the bill that was compared with it, and its event.
        """
        return f"{self.link(environment, subject)}:quote"

    def customer(self, environment: str, provider: str, customer_id: str, name: str) -> str:
        """The tenants that a customer pays for.

        subscriptions: hash of tenants. One field per subscription; removed when it moves or its tenant is erased.
        metadata: sorted set of the tenants that the customer's metadata name, by time. 10 at most; kept as long.
        checkouts: set of the tenants of paid checkouts whose subscription is not known. TTL 15 min.
        """
        return f"{self.link(environment, f'customer:{provider}:{customer_id}')}:{name}"

    def checkout(self, environment: str, provider: str, checkout_id: str) -> str:
        """Hash of a checkout: the subscription that it made, the tenants that it names. A few fields; TTL 7 days."""
        return self.link(environment, f"checkout:{provider}:{checkout_id}")

    def tenants(self, environment: str) -> str:
        """Set of the topics that events have created. A member is removed by the erasure."""
        return f"{self.head(f'tenants/{environment}')}:topics"

    def usage_tenants(self, environment: str) -> str:
        """Sorted set, by name, of the topics of tenants whose usage is counted. A member is removed by the erasure."""
        return f"{self.head(f'tenants/{environment}')}:usage"

    def tenants_walk(self, environment: str, work: str, name: str) -> str:
        """`lease`: of the worker that walks all tenants for `work`, TTL 30 s. `done`: the last walk, TTL 60 s."""
        return f"{self.head(f'tenants/{environment}')}:{work}:{name}"

    def timers(self, environment: str) -> str:
        """Queue of tenants by when time alone may change them. One member per tenant at most."""
        return f"{self.head(f'timers/{environment}')}:due"

    def audits(self, environment: str) -> str:
        """Queue of tenants by when they are next compared with their provider. One member per tenant at most."""
        return f"{self.head(f'audits/{environment}')}:due"

    def drift(self, environment: str, name: str) -> str:
        """`records`, `shadow`: streams of drift records, capped. `counts`: hash of their number, one field per kind."""
        return f"{self.head(f'drift/{environment}')}:{name}"

    def shadow(self, environment: str, name: str) -> str:
        """`switches`: hash of the switched share and tenants. `answers`: hash of the other system's answers, by topic.

        `due`: queue of tenants to compare. `switching`: queue of tenants to switch. One field or member per tenant; the
        erasure removes them. `problem`: the other system's last failure. TTL ten minutes.
        """
        return f"{self.head(f'shadow/{environment}')}:{name}"

    def backfill(self, environment: str, provider: str, name: str) -> str:
        """Progress of a backfill: counts, parked, made (removed when the backfill is complete), lease (TTL 4 s)."""
        return f"{self.head(f'backfill/{environment}/{provider}')}:{name}"

    def provider_events(self, environment: str, provider: str, name: str) -> str:
        """`cursor`: the last event read from the provider's list, kept. `lease`: of the reading worker, TTL 120 s."""
        return f"{self.head(f'events/{environment}/{provider}')}:{name}"

    def budget(self, environment: str, provider: str, name: str) -> str:
        """Token bucket for a provider's API. TTL: until it is full again, or until a pause is over."""
        return f"{self.head(f'budget/{environment}/{provider}')}:{name}"

    # Keys of the installation.

    @property
    def reconcile(self) -> str:
        """Queue of topics to compare with their provider or source. One member per topic at most."""
        return f"{self.head('reconcile')}:wanted"

    @property
    def repeated(self) -> str:
        """The same, of tenants whose pages ask again though the last comparison found no difference."""
        return f"{self.head('reconcile')}:repeated"

    @property
    def checkouts(self) -> str:
        """Queue of `TOPIC CHECKOUT`: what to read from the topic's provider. A worker removes each within minutes."""
        return f"{self.head('reconcile')}:checkouts"

    @property
    def doubtful_checkouts(self) -> str:
        """The same, of tenants whose pages have named checkouts of others."""
        return f"{self.head('reconcile')}:doubtful"

    @property
    def foreign_checkouts(self) -> str:
        """Number of checkouts that pages have named and that were not their tenants'. TTL 10 s."""
        return f"{self.head('reconcile')}:foreign"

    @property
    def searches(self) -> str:
        """Queue of tenants whose facts the store has lost, to be searched in the provider's list. One member each."""
        return f"{self.head('reconcile')}:searches"

    @property
    def lost_tails(self) -> str:
        """Queue of canaries whose shard lost commits. One member per gateway and shard; a worker removes it."""
        return f"{self.head('reconcile')}:tails"

    @property
    def hydrate(self) -> str:
        """Queue of topics that have readers but no state; the worker asks the source for them."""
        return f"{self.head('hydrate')}:wanted"

    @property
    def compare(self) -> str:
        """Queue of topics, with or without state, that the worker compares with the source."""
        return f"{self.head('hydrate')}:compare"

    @property
    def usage_wanted(self) -> str:
        """Queue of tenants whose usage a web process without a catalog shows; a worker brings it up to date."""
        return f"{self.head('usage')}:wanted"

    def webhooks(self, name: str) -> str:
        """Outgoing webhooks, by name.

        soon, late: queues of tenants that are about to change. A worker removes each within a minute.
        to:NAME: queue of tenants of which an endpoint is to be told. Members are removed when it was, or parked.
        since: hash of the endpoints, and since when they are told of changes, in microseconds. One field each.
        """
        return f"{self.head('webhooks')}:{name}"

    @staticmethod
    def claims(queue: str) -> str:
        """Hash of the claims of a delayed queue: tokens and generations by member. TTL: twice the lease."""
        return f"{queue}:claims"

    @staticmethod
    def attempts(queue: str) -> str:
        """Hash of the attempts at members of a delayed queue. A field is removed when its work is done."""
        return f"{queue}:attempts"

    @staticmethod
    def parked_members(queue: str) -> str:
        """Hash of the parked members of a delayed queue. A field is removed when its member's work is done."""
        return f"{queue}:parked"

    @property
    def born(self) -> str:
        """When the store got its first data, by its clock, in microseconds since 1970. Kept forever."""
        return f"{self.head('schema')}:born"

    @property
    def durable(self) -> str:
        """Marker that is written before WAITAOF; on a Cluster each shard has a variant of it. One byte."""
        return f"{self.prefix}:durable"

    @property
    def counters(self) -> str:
        """Hash of shared counters. One field per name and labels."""
        return f"{self.head('tallies')}:counts"

    @property
    def revoked(self) -> str:
        """Sorted set of revocations, by time. Capped; TTL: that of the longest revocation."""
        return f"{self.head('control')}:revoked"

    @property
    def ended_logins(self) -> str:
        """Sorted set of ended console logins, by time. Bounded like `revoked`.

        It is a separate set so that many logouts cannot push out a revocation.
        """
        return f"{self.head('control')}:logins"

    def acks(self, question: str) -> str:
        """List of the gateways' counts of acknowledgements. TTL: seconds."""
        return self.head(f"acks:{question}")

    def answers(self, question: str) -> str:
        """List of the gateways' answers to a console. TTL: seconds."""
        return f"{self.head(f'console/{question}')}:answers"

    def console(self, name: str) -> str:
        """Keys of the console: `refused`, `audit` (capped); `leases`, `gateways` (members are removed in a minute)."""
        return f"{self.head('console')}:{name}"


DEFAULT_KEYS = Keys()
"""The names of an installation that has a server's database 0 for itself."""
