"""Reads the checkouts that browsers have returned from, so that their pages are right even if no webhook comes.

A checkout counts for a tenant if it names the tenant, if it names nobody and its subscription or customer does, or if
its subscription is the tenant's already. Whose the subscription is then follows from all of its names, as for a
webhook. Browsers choose the ids, so a tenant has a cool-down, and answers are remembered. If a tenant's pages name
checkouts of others, its checkouts are read less often, and from a queue of their own: others' first purchases do not
wait behind them.
"""

from __future__ import annotations

import structlog

from planwire_client.core.topic import TENANT_KIND, Topic
from sync.billing.domain.facts.model import Event, subscription_key
from sync.billing.domain.tenant_resolution import SubscriptionRef, subjects
from sync.billing.providers.base import ProviderClient, ProviderRejected, ProviderUnavailable
from sync.billing.services.committer import Commit
from sync.billing.services.context import BillingContext
from sync.billing.services.events.fetch import named_by_customer
from sync.billing.services.events.ingest import Ingest
from sync.billing.services.events.resolve import TenantResolver
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.storage.links import find_link, read_stored
from sync.store.checkout_reads import REMEMBERED_S, CheckoutRead
from sync.store.command_pipeline import run_commands
from sync.store.delayed_queue import DelayedQueue, Due

QUEUE, DOUBTFUL_QUEUE = "checkouts", "checkouts_doubtful"
"""The queues' names, for logs and the metric."""

MAX_WAIT_S = 5.0
"""Maximum time for each answer of the provider."""

PAUSE_DOUBLINGS = 2
"""How often checkouts of others double the pause between two reads of a tenant's checkouts.

A checkout that is not complete is read again after that pause, and then each time after twice as long."""

RETRIED_WITHIN_S = 120.0
"""Maximum time after the first read for which a checkout that is not complete is read again: that of an `expect`."""

STORM_READS, STORM_S = 5, 10
"""So many tenants that name a checkout of others for the first time, within so many seconds, are a storm: all checkouts
are read in the background of the rate limit, and webhooks and repairs go before."""

FRESH_NS = 600 * 1_000_000_000
"""Age from which a purchase may have been refunded."""

_log = structlog.get_logger("sync.checkouts")


class Checkouts:
    """The queues of checkouts. A member is a tenant's topic, a space, and the provider's id of the checkout.

    Attributes:
        queue: those that pages have named.
        doubtful: of these, those of tenants whose pages have named checkouts of others.
    """

    def __init__(
        self, context: BillingContext, resolver: TenantResolver, reprojection: Reprojection, ingest: Ingest
    ) -> None:
        self.queue = DelayedQueue(context.store, context.store.keys.checkouts)
        self.doubtful = DelayedQueue(context.store, context.store.keys.doubtful_checkouts)
        self._context = context
        self._store = context.store
        self._resolver = resolver
        self._reprojection = reprojection
        self._ingest = ingest

    async def handle(self, queue: DelayedQueue, due: Due) -> None:
        """Read a checkout from its provider; if it is not complete, read it again later.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        topic, _, checkout_id = due.topic.partition(" ")
        client = self._client(Topic.parse(topic), checkout_id)
        (foreign,) = await run_commands(self._store, ("GET", self._store.keys.asked(topic, "foreign")))
        if client is None:
            await self._store.want_reconcile([topic])
            await queue.ack(due)
            return
        if foreign is not None and queue is self.queue:
            await self._store.request(self._store.keys.doubtful_checkouts, [due.topic])
            await queue.ack(due)
            return
        pause_s = await self._read(topic, checkout_id, client, int(foreign or 0))
        if pause_s is None:
            await queue.ack(due)
        else:
            await queue.reschedule(due, pause_s)

    async def _read(self, topic: str, checkout_id: str, client: ProviderClient, failures: int) -> float | None:
        """Return the delay before the checkout has to be read again, in seconds; None if that is never.

        Args:
            failures: checkouts of others that the tenant's pages have named.
        """
        now_us, keys = self._context.now_us, self._store.keys
        known, asked = keys.checkout_read(topic, checkout_id), keys.asked(topic, "checkout")
        foreign, storm = keys.asked(topic, "foreign"), keys.foreign_checkouts
        remembered = ("PX", int(REMEMBERED_S * 1000))
        _, since, strangers = await run_commands(
            self._store, ("SET", known, now_us, "NX", *remembered), ("GET", known), ("GET", storm)
        )
        if since is not None and not since.isdigit():
            return None
        age_s = (now_us - int(since or now_us)) / 1_000_000
        if age_s >= RETRIED_WITHIN_S:
            return None
        pause_s = self._context.checkout_pause_s
        cool_ms = int(pause_s * 1000) << min(failures, PAUSE_DOUBLINGS)
        is_first, left_ms = await run_commands(self._store, ("SET", asked, b"1", "NX", "PX", cool_ms), ("PTTL", asked))
        if not is_first:
            return float(max(0, left_ms)) / 1000
        background = failures > 0 or int(strangers or 0) >= STORM_READS
        try:
            found = await self._apply(topic, checkout_id, client, background=background)
        except ProviderUnavailable as error:
            _log.warning("checkout_not_read", topic=topic, reason=error.reason)
            return max(pause_s, error.retry_s or age_s)
        except ProviderRejected as error:
            # Somebody's made-up id, or an API key that may not read checkouts: a retry would not help.
            _log.warning("checkout_not_read", topic=topic, checkout=checkout_id, reason=str(error))
            found = CheckoutRead.FOREIGN
        if found is CheckoutRead.INCOMPLETE:
            return max(pause_s, age_s)
        done: list[tuple[str | int, ...]] = [("SET", known, found, *remembered)]
        if found is CheckoutRead.FOREIGN:
            done += [("INCR", foreign), ("PEXPIRE", foreign, remembered[1])]
            done += [("SET", storm, 0, "NX", "EX", STORM_S), ("INCR", storm)] if not failures else []
        elif found is CheckoutRead.APPLIED:
            done.append(("DEL", foreign))
        await run_commands(self._store, *done)
        return None

    async def _apply(self, topic: str, checkout_id: str, client: ProviderClient, *, background: bool) -> CheckoutRead:
        """Merge the checkout's subscription into the tenant that it belongs to; return what was found.

        Raises:
            ProviderUnavailable, ProviderRejected: the provider did not answer.
            StoreError: the store is unreachable or failing.
        """
        found = await client.checkout(checkout_id, MAX_WAIT_S, background=background)
        if found.payment is None or found.payment.subscription_id is None:
            return CheckoutRead.VOID if found.is_final else CheckoutRead.INCOMPLETE
        payment, tenant_id = self._context.named(found.payment), Topic.parse(topic).id
        if payment.subscription_id is None:
            return CheckoutRead.VOID  # a purchase of other things
        link = await read_stored(self._store, SubscriptionRef.of(payment))
        is_its = tenant_id in (link.tenant_id, payment.tenant_id)
        if not is_its and payment.tenant_id is not None:
            return self._foreign(topic, checkout_id)
        background = background and not is_its  # the tenant has paid for it: this is no storm
        fetched = payment if payment.is_of_payment else found.fetched
        if fetched is None:
            fetched = await client.fetch(found.payment.subscription_id, MAX_WAIT_S, background=background)
        fetched = self._context.named(fetched)
        if not is_its:
            fetched = await named_by_customer(self._context, fetched, background=background)
            if fetched.tenant_id != tenant_id:
                return self._foreign(topic, checkout_id)
        await find_link(self._store, payment)
        home, fetched = await self._resolver.home(fetched, "")
        if not home:
            return CheckoutRead.VOID
        commit = await self._merge(home, fetched)
        if found.bought is not None:
            beside, bought = await self._resolver.home(self._context.named(found.bought), home)
            await self._merge(beside, bought)
        body = fetched.subscription
        if body is not None and body.status == "incomplete":
            return CheckoutRead.INCOMPLETE
        key = subscription_key(fetched.provider, str(fetched.subscription_id))
        is_there = home == topic and key in commit.decision.after.subscriptions
        return CheckoutRead.APPLIED if is_there else CheckoutRead.VOID

    async def _merge(self, topic: str, event: Event) -> Commit:
        """Merge a subscription or a purchase into its tenant, and process what has waited for it."""
        cause = {"source": "reconcile", "event_type": "checkout"}
        commit = await self._reprojection.refresh(event.environment, topic, Refresh(cause, [event]))
        await self._ingest.release(event.environment, subjects(event))
        purchase = None if event.subscription is None else event.subscription.purchase
        if purchase is not None and purchase.bought_ns < self._context.now_ns() - FRESH_NS:
            await self._store.want_reconcile([topic])  # it may have gone back since
        return commit

    def _foreign(self, topic: str, checkout_id: str) -> CheckoutRead:
        _log.warning("checkout_of_another", topic=topic, checkout=checkout_id)
        return CheckoutRead.FOREIGN

    def _client(self, topic: Topic, checkout_id: str) -> ProviderClient | None:
        """Return the client of the provider whose checkouts have such ids; None if there is none."""
        for (_, environment), client in self._context.clients.items():
            prefix = client.checkout_prefix
            if topic.kind == TENANT_KIND and environment == topic.env and prefix and checkout_id.startswith(prefix):
                return client
        return None
