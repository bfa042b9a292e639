"""The metrics of one process, each declared once, and their export to Prometheus.

Counting adds to an int; only a scrape builds Prometheus objects. Each app has one `Metrics` with its own registry. With
several processes on one port, a scrape reaches a random one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from gateway.metric_kinds import PREFIX, Declared, Histogram, counter, family_of, gauge, histogram
from planwire_client.core.frames import CloseCode
from sync.store import counters

CLOSE_CODES = frozenset((*range(1000, 1016), *CloseCode))
"""The close codes that are label values: those of RFC 6455 and ours. A browser may send any other."""

OTHER: Final = "other"
"""The label value for every other close code."""

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OCCURRED_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Wider bounds: the time starts at the provider's clock and includes its webhook."""


class Backlog(Protocol):
    """Lengths of the worker's queues in the store, in a process with an intake."""

    @property
    def waiting(self) -> Sequence[tuple[str, str, int, float]]:
        """As last read, for each queue: (queue, environment, members, seconds that the first has been due)."""

    @property
    def parked(self) -> Sequence[tuple[str, str, int]]:
        """As last read, for each queue: (queue, environment, parked members)."""

    async def refresh(self) -> None:
        """Read it again; keep the last values if the store is unreachable."""


@dataclass(eq=False)
class Metrics:
    """The metrics of one process. Callers add to the attributes; a labelled one is a Counter by label values.

    Attributes that are exported in another form, or not at all:
        backlog: the worker's queues in the store; None in a process without an intake.
        counters: the counters that all processes share in the store, by name and labels, as last read.
        probe_at: time of the last successful bus probe, seconds since 1970; 0 before the first.
    """

    backlog: Backlog | None = None
    counters: Mapping[tuple[str, counters.Labels], int] = field(init=False, default_factory=dict)
    probe_at: float = field(init=False, default=0.0)

    opened: int = counter("sockets_opened", "Sockets whose hello was accepted.")
    sent: int = counter("deliveries", "Snapshots and patches written to sockets.")
    sent_bytes: int = counter("delivered_bytes", "Bytes of those frames, framing included.")
    received: int = counter("frames_received", "Frames that browsers sent, control frames aside.")
    patches: int = counter("patches", "Deliveries that were patches.")
    replaced: int = counter("replaced", "Deliveries replaced in a slow socket's slot by a newer version.")
    conflated: int = counter("conflated", "Versions that a busy fan-out skipped for a newer one.")
    resets: int = counter("resets", "Snapshots sent with reset: the store had lost newer state.")
    announcements: int = counter("announcements", "Versions that the bus announced and were new here.")
    bad_announcements: int = counter("bad_announcements", "Announcements that could not be read.")
    acks: int = counter("acks", "Acks received.")
    nacks: int = counter("nacks", "Nacks received.")
    expects: int = counter("expects", "Expect frames received.")
    expects_expired: int = counter("expects_expired", "Expects that ended without a newer version.")
    gone: int = counter("gone", "Topics taken from a socket by expiry or revocation.")
    probes: int = counter("probes", "Bus probes that came back.")
    probes_missed: int = counter("probes_missed", "Bus probes that did not come back in time.")
    feed_losses: int = counter("feed_losses", "Times the connection to the bus was lost or dropped as deaf.")
    sweeps: int = counter("sweeps", "Sweeps over all live topics.")
    sweep_topics: int = counter("sweep_topics", "Topics whose version a sweep read.")
    sweep_repairs: int = counter("sweep_repairs", "Topics that a sweep found newer than the bus had announced.")
    unhydrated: int = counter("unhydrated", "Topics without state that the worker was to ask the source about.")
    sweep_seconds: float = counter("sweep_seconds", "CPU seconds of the event loop's thread spent sweeping.")
    restored: int = counter("restored", "Snapshots put back into a store that had lost them.")
    lost_tails: int = counter("lost_tails", "Times that a shard of the store was found to have lost commits.")
    foreign: int = counter(
        "foreign_messages", "Announcements and revocations of another installation heard on these channels."
    )
    unannounced: int = counter("unannounced", "Commits made here that the store would not announce; sweeps find them.")
    drained: int = counter("drained", "Sockets closed by a drain.")
    revocations: int = counter("revocations", "Revocations learnt.")
    streams_opened: int = counter("streams_opened", "Event streams and waiting reads begun.")
    accept_failures: int = counter(
        "accept_failures", "Checks, four a second, that found no free descriptor; new connections are closed then."
    )
    log_lines_dropped: int = counter("log_lines_dropped", "Log lines dropped because the log was not read.")

    sockets: int = gauge("sockets", "Open sockets.")
    http_connections: int = gauge("http_connections", "Open HTTP connections; a new socket counts until its hello.")
    topics: int = gauge("topics", "Live topics.")
    streams: int = gauge("streams", "Open event streams and waiting reads.")
    fresh: bool = gauge("fresh", "1: the bus is proved to deliver within two probe intervals.", kind=bool)
    draining: bool = gauge("draining", "1: the process is stopping.", kind=bool)

    closed: Counter[int | str] = counter("sockets_closed", "Sockets closed.", "code")
    refused: Counter[str] = counter("sockets_refused", "Sockets refused before opening.", "reason")
    connections_dropped: Counter[str] = counter(
        "http_connections_dropped",
        "HTTP connections closed or refused because they were too slow or a limit was reached.",
        "reason",
    )
    verdicts: Counter[str] = counter("verdicts", "Publishes over HTTP.", "verdict")
    auth_failures: Counter[str] = counter("auth_failures", "Refused tokens and publish keys.", "code")
    usage_calls: Counter[tuple[str, str, str]] = counter(
        "usage_calls", "Calls about usage over HTTP, by what came of them.", "operation", "meter", "outcome"
    )
    requests: Counter[tuple[str, str, int]] = counter("http_requests", "HTTP requests.", "route", "method", "status")

    drift: Counter[tuple[str, ...]] = counter(
        "drift", "Differences found between what was published and what the provider says.", "kind", "env"
    )
    item_failures: Counter[tuple[str, ...]] = counter(
        "item_failures", "Failed attempts at an item of one of the worker's queues.", "queue"
    )
    webhook_messages: Counter[tuple[str, ...]] = counter(
        "webhook_messages", "Messages to endpoints of outgoing webhooks.", "endpoint", "type", "outcome"
    )
    erased_events: Counter[tuple[str, ...]] = counter(
        "erased_events", "Events ignored because their tenant was erased.", "env"
    )
    ignored_events: Counter[tuple[str, ...]] = counter(
        "ignored_events", "Events of other software (price: the catalog ignores it) or of other accounts (account).",
        "reason", "env",
    )  # fmt: skip
    shadow_comparisons: Counter[tuple[str, ...]] = counter(
        "shadow_comparisons", "Comparisons with the entitlement system in whose shadow billing runs.", "result", "env"
    )
    shadow_differences: Counter[tuple[str, ...]] = counter(
        "shadow_differences", "Tenants that were found to differ from it, anew, by what differs.", "field", "env"
    )
    queue_length: dict[tuple[str, str], float] = gauge(
        "queue_length",
        "What is in a queue of the worker's, what is not due yet included; the same in each process.",
        "queue", "env",
    )  # fmt: skip
    queue_overdue: dict[tuple[str, str], float] = gauge(
        "queue_overdue_seconds",
        "For how long the first of a queue has been due; a worker takes it within seconds.",
        "queue", "env",
    )  # fmt: skip
    queue_parked: dict[tuple[str, str], float] = gauge(
        "queue_parked",
        "Items of one of the worker's queues that are parked after 8 failed attempts; events: queue_length of parked.",
        "queue", "env",
    )  # fmt: skip
    evicts: Mapping[str, float] = gauge(
        "store_evicts", "1: the store may evict keys, by its maxmemory-policy; NaN: it is not known.", "policy"
    )

    publish_to_sent: Histogram = histogram(
        "publish_to_sent_seconds", "From a version's instant to its fan-out here.", LATENCY_BOUNDS_S
    )
    publish_to_acked: Histogram = histogram(
        "publish_to_acked_seconds", "From a version's instant to the ack of a tab that was open then.", LATENCY_BOUNDS_S
    )
    usage_seconds: Histogram = histogram(
        "usage_seconds", "From a call about usage to the store's answer, durable if it is to be.", LATENCY_BOUNDS_S
    )
    occurred_to_acked: Histogram = histogram(
        "occurred_to_acked_seconds",
        "From the provider's occurred_at to the ack of a tab that was open at the commit.",
        OCCURRED_BOUNDS_S,
    )

    def __post_init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def delivered(self, count: int, size: int, as_patch: bool) -> None:
        """Count `count` frames of `size` bytes each, written to sockets."""
        self.sent += count
        self.sent_bytes += count * size
        if as_patch:
            self.patches += count

    def socket_closed(self, code: int) -> None:
        """Count a socket closed with `code`; the browser may have chosen the code."""
        self.closed[code if code in CLOSE_CODES else OTHER] += 1

    def answered(self, path: str, method: str, status: int) -> None:
        """Count an HTTP answer of the route declared as `path`."""
        self.requests[path, method, status] += 1

    def usage_called(self, operation: str, meter: str, outcome: str, seconds: float) -> None:
        """Count a call about usage of a meter of the catalog, or of `other`."""
        self.usage_calls[operation, meter, outcome] += 1
        self.usage_seconds.observe(seconds)

    def announced(self, version: int) -> None:
        """Count a version that is fanned out now, and observe its age. `version`: microseconds since 1970."""
        self.announcements += 1
        self.publish_to_sent.observe(time.time() - version / 1e6)

    def acked(self, version: int, occurred_at: float | None = None) -> None:
        """Observe the latency of an ack that arrives now.

        Args:
            version: the acked version, microseconds since 1970.
            occurred_at: when its cause occurred at the provider, seconds since 1970; None if unknown.
        """
        now = time.time()
        self.publish_to_acked.observe(now - version / 1e6)
        if occurred_at is not None:
            self.occurred_to_acked.observe(now - occurred_at)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families (the registry calls this)."""
        self._read_shared()
        for attribute, declared in DECLARED.items():
            yield family_of(declared, getattr(self, attribute))
        age = time.time() - self.probe_at if self.probe_at else float("inf")
        yield GaugeMetricFamily(PREFIX + "tasks", "Tasks of the event loop.", value=_tasks())
        yield GaugeMetricFamily(PREFIX + "probe_age_seconds", "Since the bus was last proved; +Inf: never.", value=age)

    def _read_shared(self) -> None:
        """Set the metrics that come from the store and are the same in every process."""
        for (name, pairs), count in self.counters.items():
            if name in SHARED:
                labels = dict(pairs)
                getattr(self, name)[tuple(labels.get(label, "") for label in DECLARED[name].labels)] = count
        for queue, environment, members, overdue_s in self.backlog.waiting if self.backlog is not None else ():
            self.queue_length[queue, environment] = members
            self.queue_overdue[queue, environment] = overdue_s
        for queue, environment, members in self.backlog.parked if self.backlog is not None else ():
            self.queue_parked[queue, environment] = members


SHARED = (
    "drift", "item_failures", "erased_events", "ignored_events", "shadow_comparisons", "shadow_differences",
    "webhook_messages",
)  # fmt: skip
"""The counters that come from the store."""

DECLARED: dict[str, Declared] = {
    one.name: one.metadata["declared"] for one in fields(Metrics) if "declared" in one.metadata
}
"""Declarations by attribute name."""


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0  # no running event loop
