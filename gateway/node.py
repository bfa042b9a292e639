"""The `Node`: owns the background tasks of one web process (bus, hub, sweep, probe, heartbeats) and its parts."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import structlog

from gateway.auth import revocations
from gateway.auth.jwks import Jwks
from gateway.auth.publish_keys import PublishKeys
from gateway.auth.revocation_store import RevocationSync
from gateway.auth.revocations import Revocation, Revocations
from gateway.auth.tokens import Auth
from gateway.auth.verify_keys import KeySet, VerifyKey, secret_keys
from gateway.bus.subscriber import BusSubscriber
from gateway.fleet.ask import Acks, AcksFormat
from gateway.fleet.control_channel import ControlChannel
from gateway.freshness.probe import Probe
from gateway.freshness.reconciler import Reconciler
from gateway.freshness.usage_reads import UsageTopics
from gateway.hub.ack_policy import AckPolicy
from gateway.hub.fanout import in_chunks
from gateway.hub.hub import Hub
from gateway.metrics import Backlog, Metrics
from gateway.settings import GatewaySettings
from gateway.ws.checkout_reads import CheckoutReads
from gateway.ws.registry import ConnectionRegistry
from gateway.ws.session_socket import SessionSocket
from planwire_client.core.topic import tenant_of
from sync.process import logs
from sync.store.checks.inspection import Inspection
from sync.store.models import Snapshot
from sync.store.redis.connect import Connected

log = structlog.get_logger()

PRUNE_S = 60.0
"""Seconds between removals of revocations that cannot match a valid token any more; also the margin for clocks."""

INSPECT_EVERY = 5
"""Probe intervals between two checks of the store's own settings."""


class Node:
    """The running parts of a web process. `run` owns every task; routes and sockets use the attributes.

    Attributes:
        has_died: whether a task has failed; the process then stops.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        connected: Connected,
        keys: Sequence[VerifyKey] = (),
        backlog: Backlog | None = None,
        usage: UsageTopics | None = None,
    ) -> None:
        """Build the parts on an open store.

        Args:
            settings: the configuration.
            connected: the store and its bus.
            keys: further keys that verify tokens, beside those in the settings.
            backlog: the billing queues that /metrics shows; None in a process without an intake.
            usage: counts what tenants use of their limits, or has a worker do it.
        """
        self.settings = settings
        self._usage = usage
        self.name = secrets.token_hex(6)
        self._is_stopping = False
        self.has_died = False
        self.store = connected.store
        self._control_channel = self.store.keys.control_channel.encode()
        self.inspection = Inspection(self.store, settings.dev)
        self.metrics = Metrics(backlog)
        self.auth, self._jwks = _auth(settings, keys)
        self.publish_keys = PublishKeys(
            settings.publish_keys, settings.publish_rights, default_rate=settings.publish_rate_per_s
        )
        self.subscriber = BusSubscriber(connected.bus, self._message, self._subscribed, self._lost)
        self.hub = Hub(
            self.metrics,
            self.subscriber.add,
            self.subscriber.discard,
            lambda name: self.reconciler.request_read(name),
            AckPolicy(settings.acks_per_topic, settings.acks_per_s, settings.ack_after_ms),
            want_reconcile=lambda name, held=0: self.reconciler.want_reconcile(name, held),
            want_checkout=lambda name, checkout: self.reconciler.want_checkout(name, checkout),
            want_usage=lambda name, version, state: self.reconciler.want_usage(name, version, state),
            keys=self.store.keys,
        )
        self.reconciler = Reconciler(
            self.store,
            self.hub,
            self.metrics,
            settings.sweep_s,
            hold_s=settings.sweep_s,
            hydrates=bool(settings.source_url),
            usage=usage,
        )
        self.acks = Acks(self.store, self.hub, self.name)
        self._revocation_sync = RevocationSync(
            self.store,
            self.auth,
            self.revoke,
            lambda kind: self.reconciler.heard_foreign("revocation", of=kind),
            settings,
        )
        self.control = ControlChannel()
        self.control.on(revocations.OP, self._revocation_sync.heard)
        self.control.on(AcksFormat.op, self.acks.heard)
        self.registry = ConnectionRegistry(settings, self.auth, self.hub, self.metrics, self.name)
        self.probe = Probe(
            self.store, self.hub, self.subscriber, self.name, settings.probe_s, self.registry.announce_freshness
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run every task of the process while the context is open; stop the process if one of them fails."""
        self.subscriber.add(self._control_channel)
        tasks = asyncio.create_task(self._tasks(), name="node")

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.critical("node_died", exc_info=error)
                self.has_died = True
                # Stop as on an operator's SIGTERM: without its tasks the gateway would serve stale data.
                os.kill(os.getpid(), signal.SIGTERM)

        tasks.add_done_callback(ended)
        try:
            yield
        finally:
            self._is_stopping = True
            tasks.cancel()
            await asyncio.wait([tasks])

    async def _tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.subscriber.run(), name="feed")
            group.create_task(self.reconciler.run(), name="reads")
            group.create_task(self.reconciler.run_periodic(), name="sweep")
            group.create_task(self.probe.run(), name="probe")
            group.create_task(self.registry.run(), name="pulse")
            group.create_task(CheckoutReads(self.store, self.registry.expects).run(), name="checkouts")
            group.create_task(self._check(), name="check")
            group.create_task(self._revocation_sync.run(), name="revocations")
            group.create_task(self.acks.run(), name="acks")
            group.create_task(self.inspection.run(INSPECT_EVERY * self.settings.probe_s), name="inspection")
            if self._usage is not None:
                group.create_task(self._usage.run(), name="usage")
            if self._jwks is not None:
                group.create_task(self._jwks.run(), name="jwks")

    async def _check(self) -> None:
        pruned_at = time.monotonic()
        while True:
            await asyncio.sleep(self.settings.probe_s / 20)
            self.probe.check()
            self.metrics.probes_missed = self.probe.missed
            self.metrics.lost_tails = self.probe.lost_tails
            self.metrics.unannounced = self.store.unannounced
            self.metrics.evicts = self.inspection.evicts
            self.metrics.log_lines_dropped = logs.dropped()
            if time.monotonic() - pruned_at > PRUNE_S:
                pruned_at = time.monotonic()
                self.auth.revocations.prune(time.time() - self.settings.revocation_keep_s - PRUNE_S)
            self.metrics.topics = self.hub.topic_count
            self.metrics.probe_at = self.hub.verified_at_us / 1e6

    # The bus.

    def _message(self, channel: bytes, payload: bytes) -> None:
        if channel in self.hub.topics:
            self.hub.announce(channel, payload)
        elif channel in self.probe.canaries:
            self.metrics.probes += 1
            self.probe.heard(channel, payload)
        elif channel == self._control_channel:
            self.control.heard(payload)

    def _subscribed(self, channel: bytes) -> None:
        live = self.hub.topics.get(channel)
        if live is not None:
            self.hub.confirmed(channel)
            self.reconciler.request_read(live.name)
        elif channel in self.probe.canaries:
            self.probe.prompt()
        elif channel == self._control_channel:
            self._revocation_sync.read_all()

    def _lost(self, channels: Collection[bytes]) -> None:
        if self._is_stopping:
            return
        self.metrics.feed_losses += 1
        self.hub.invalidate(channels)
        self.probe.check()

    async def read(self, topic: str) -> Snapshot:
        """Return a topic's newest version from the store; a usage topic's is brought up to date before.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        if self._usage is not None and tenant_of(topic):
            await self._usage.refresh([topic])
        return await self.store.read(topic)

    def revoke(self, revocation: Revocation) -> None:
        """Put a revocation in force, and take the revoked topics from open sockets. A repeat does nothing."""
        if not self.auth.revocations.revoke(revocation.kind, revocation.value, revocation.at):
            return
        self.metrics.revocations += 1
        in_chunks(list(self.registry.sockets), self._revoke)

    def _revoke(self, socket: SessionSocket) -> None:
        if socket in self.registry.sockets:  # it may have closed meanwhile
            socket.revoke(self.auth.revocations)


def _auth(settings: GatewaySettings, keys: Sequence[VerifyKey]) -> tuple[Auth, Jwks | None]:
    fixed = [*secret_keys(secret.get_secret_value() for secret in settings.jwt_secret), *keys]
    auth = Auth(
        KeySet(fixed),
        revocations=Revocations(settings.revocations_max),
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        token_max_bytes=settings.token_max_bytes,
        max_ttl_s=settings.token_max_ttl_s,
        cache_size=settings.token_cache,
        leeway_s=settings.token_leeway_s,
        awaits_keys=bool(settings.jwks),
    )
    if not settings.jwks:
        return auth, None
    return auth, Jwks(
        auth,
        settings.jwks,
        settings.jwt_algorithms,
        fixed=fixed,
        refresh_s=settings.jwks_refresh_s,
        retry_s=settings.jwks_retry_s,
    )
