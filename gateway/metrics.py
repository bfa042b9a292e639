"""What the process counts, and its Prometheus form. Counting is adding to an int; all cost is paid when scraped.

One `Metrics` per app with its own registry; it measures nothing itself and owns no clock but the one for versions.
With several worker processes on one port a scrape meets one of them at random.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from planwire_client.core.frames import CloseCode
from sync.store import counters

PREFIX: Final = "planwire_"

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

CLOSE_CODES = frozenset((*range(1000, 1016), *CloseCode))
"""The close codes with a series of their own: those of RFC 6455 and ours. A browser may choose any other."""

OTHER: Final = "other"
"""The label of every other value."""

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OCCURRED_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""From a provider's clock, over its webhook: slower by nature."""


class Histogram:
    """Counts of observed seconds per bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count `seconds`, `times` over. A clock that ran backwards counts as 0."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper bound, as Prometheus wants them."""
        running, result = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


class Backlog(Protocol):
    """What waits in the store for a worker: who reads it is named where webhooks are taken."""

    @property
    def waiting(self) -> Sequence[tuple[str, str, int, float]]:
        """(queue, environment, members, seconds that the first has been due) each, as last read."""

    async def refresh(self) -> None:
        """Read it again; a store that is away leaves what was known."""


class Metrics:
    """The counts of one process. Attributes are added to directly; see `COUNTERS` and `GAUGES` for what each means.

    Attributes beyond those:
        closed: sockets closed, by close code or OTHER.
        refused: sockets refused before opening, by reason.
        connections_dropped: HTTP connections dropped or refused, by reason.
        verdicts: publishes over HTTP, by verdict or `error`.
        auth_failures: refused tokens and publish keys, by code.
        requests: HTTP requests, by (route, method, status).
        publish_to_sent: seconds from a version's instant until the gateway fanned it out.
        publish_to_acked: seconds from a version's instant until a browser acked it that was connected then.
        occurred_to_acked: seconds from when the provider says it happened until a browser acked it.
        tallies: what all processes count together, by name and labels, as last read from the store.
        backlog: what waits in the store for a worker; None where webhooks are not taken.
        probe_at: when the bus was last proved, seconds since 1970; 0 before the first time.
        evicts: by the store's maxmemory-policy whether it evicts any of our keys: 1, 0, or NaN where it does not tell.
    """

    def __init__(self, backlog: Backlog | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        # Counters.
        self.opened = 0
        self.sent = 0
        self.sent_bytes = 0
        self.received = 0
        self.patches = 0
        self.replaced = 0
        self.conflated = 0
        self.resets = 0
        self.announcements = 0
        self.bad_announcements = 0
        self.acks = 0
        self.nacks = 0
        self.expects = 0
        self.expects_expired = 0
        self.gone = 0
        self.probes = 0
        self.probes_missed = 0
        self.feed_losses = 0
        self.sweeps = 0
        self.sweep_topics = 0
        self.sweep_repairs = 0
        self.sweep_seconds = 0.0
        self.restored = 0
        self.foreign = 0
        self.unannounced = 0
        self.unhydrated = 0
        self.drained = 0
        self.revocations = 0
        self.streams_opened = 0
        self.accept_failures = 0
        self.log_lines_dropped = 0
        # Gauges.
        self.sockets = 0
        self.http_connections = 0
        self.topics = 0
        self.streams = 0
        self.fresh = False
        self.draining = False
        self.probe_at = 0.0
        # By label.
        self.closed: Counter[int | str] = Counter()
        self.refused: Counter[str] = Counter()
        self.connections_dropped: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.auth_failures: Counter[str] = Counter()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.counters: Mapping[tuple[str, counters.Labels], int] = {}
        self.backlog = backlog
        self.evicts: Mapping[str, float] = {}
        # Histograms.
        self.publish_to_sent = Histogram(LATENCY_BOUNDS_S)
        self.publish_to_acked = Histogram(LATENCY_BOUNDS_S)
        self.occurred_to_acked = Histogram(OCCURRED_BOUNDS_S)
        self.registry.register(_Exporter(self))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def delivered(self, count: int, size: int, as_patch: bool) -> None:
        """Count `count` frames of `size` bytes each that were written to sockets."""
        self.sent += count
        self.sent_bytes += count * size
        if as_patch:
            self.patches += count

    def socket_closed(self, code: int) -> None:
        """Count a socket that was closed with `code`, which the browser may have chosen."""
        self.closed[code if code in CLOSE_CODES else OTHER] += 1

    def answered(self, path: str, method: str, status: int) -> None:
        """Count an HTTP answer of the route declared as `path`."""
        self.requests[path, method, status] += 1

    def announced(self, version: int) -> None:
        """Count a version fanned out now; it tells its own age (microseconds since 1970)."""
        self.announcements += 1
        self.publish_to_sent.observe(time.time() - version / 1e6)

    def acked(self, version: int, occurred_at: float | None = None) -> None:
        """Note how long an ack of `version` took that arrived now, of what occurred at that many seconds since 1970."""
        now = time.time()
        self.publish_to_acked.observe(now - version / 1e6)
        if occurred_at is not None:
            self.occurred_to_acked.observe(now - occurred_at)

    def exposition(self) -> bytes:
        """Return the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)


COUNTERS = {
    "opened": ("sockets_opened", "Sockets whose hello was accepted."),
    "sent": ("deliveries", "Snapshots and patches written to sockets."),
    "sent_bytes": ("delivered_bytes", "Bytes of those frames, framing included."),
    "received": ("frames_received", "Frames that browsers sent, control frames aside."),
    "patches": ("patches", "Deliveries that were patches."),
    "replaced": ("replaced", "Deliveries replaced in a slow socket's slot by a newer version."),
    "conflated": ("conflated", "Versions that a busy fan-out skipped for a newer one."),
    "resets": ("resets", "Snapshots sent with reset: the store had lost newer state."),
    "announcements": ("announcements", "Versions that the bus announced and were new here."),
    "bad_announcements": ("bad_announcements", "Announcements that could not be read."),
    "acks": ("acks", "Acks received."),
    "nacks": ("nacks", "Nacks received."),
    "expects": ("expects", "Expect frames received."),
    "expects_expired": ("expects_expired", "Expects that ended without a newer version."),
    "gone": ("gone", "Topics taken from a socket by expiry or revocation."),
    "probes": ("probes", "Bus probes that came back."),
    "probes_missed": ("probes_missed", "Bus probes that did not come back in time."),
    "feed_losses": ("feed_losses", "Times the connection to the bus was lost or dropped as deaf."),
    "sweeps": ("sweeps", "Sweeps over all live topics."),
    "sweep_topics": ("sweep_topics", "Topics whose version a sweep read."),
    "sweep_repairs": ("sweep_repairs", "Topics that a sweep found newer than the bus had told."),
    "unhydrated": ("unhydrated", "Topics without state that the worker was to ask the source about."),
    "sweep_seconds": ("sweep_seconds", "CPU seconds of the event loop's thread spent sweeping."),
    "restored": ("restored", "Snapshots put back into a store that had lost them."),
    "foreign": ("foreign_messages", "Announcements and revocations of another installation heard on these channels."),
    "unannounced": ("unannounced", "Commits made here that the store would not announce; sweeps find them."),
    "drained": ("drained", "Sockets closed by a drain."),
    "revocations": ("revocations", "Revocations learnt."),
    "streams_opened": ("streams_opened", "Event streams and waiting reads begun."),
    "accept_failures": (
        "accept_failures",
        "Checks, four a second, that found no free descriptor; new connections are closed then.",
    ),
    "log_lines_dropped": ("log_lines_dropped", "Log lines dropped because the log was not read."),
}
"""Attribute to name (`planwire_` before, `_total` after) and help."""

TALLIES = {
    "drift": ("Differences found between what was published and what the provider says.", ("kind", "env")),
    "erased_events": ("Events ignored because their tenant was erased.", ("env",)),
}
"""Name to help and label names, of what all processes count together: each process shows the same."""

QUEUES = {
    "queue_length": "What is in a queue of the worker's, what is not due yet included; the same in each process.",
    "queue_overdue_seconds": "For how long the first of a queue has been due; a worker takes it within seconds.",
}
"""Name to help, of what is read from the store where webhooks are taken."""

EVICTS = ("store_evicts", "1: the store may evict keys, by its maxmemory-policy; NaN: it does not tell.", ("policy",))
"""Name, help and label names of what is shown of the store's own settings."""

GAUGES = {
    "sockets": ("sockets", "Open sockets."),
    "http_connections": ("http_connections", "Open HTTP connections; a new socket counts until its hello."),
    "topics": ("topics", "Live topics."),
    "streams": ("streams", "Open event streams and waiting reads."),
    "fresh": ("fresh", "1: the bus is proved to deliver within two probe intervals."),
    "draining": ("draining", "1: the process is stopping."),
}
"""Attribute to name and help."""

LABELLED = {
    "closed": ("sockets_closed", "Sockets closed.", ("code",)),
    "refused": ("sockets_refused", "Sockets refused before opening.", ("reason",)),
    "connections_dropped": (
        "http_connections_dropped",
        "HTTP connections closed or refused because they were too slow or a limit was reached.",
        ("reason",),
    ),
    "verdicts": ("verdicts", "Publishes over HTTP.", ("verdict",)),
    "auth_failures": ("auth_failures", "Refused tokens and publish keys.", ("code",)),
    "requests": ("http_requests", "HTTP requests.", ("route", "method", "status")),
}
"""Attribute to name, help and label names."""

HISTOGRAMS = {
    "publish_to_sent": ("publish_to_sent_seconds", "From a version's instant to its fan-out here."),
    "publish_to_acked": (
        "publish_to_acked_seconds",
        "From a version's instant to the ack of a tab that was open then.",
    ),
    "occurred_to_acked": (
        "occurred_to_acked_seconds",
        "From the provider's occurred_at to the ack of a tab that was open at the commit.",
    ),
}
"""Attribute to name and help."""


class _Exporter(Collector):
    """Turns the attributes into metric families when scraped."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        for attribute, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(PREFIX + name, text, value=getattr(metrics, attribute))
        for attribute, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, text, value=getattr(metrics, attribute))
        for attribute, (name, text, labels) in LABELLED.items():
            family = CounterMetricFamily(PREFIX + name, text, labels=labels)
            for key, count in getattr(metrics, attribute).items():
                family.add_metric([str(part) for part in (key if isinstance(key, tuple) else (key,))], count)
            yield family
        for name, (text, labels) in TALLIES.items():
            family = CounterMetricFamily(PREFIX + name, text, labels=labels)
            for (tally, pairs), count in metrics.counters.items():
                if tally == name:
                    family.add_metric([dict(pairs).get(label, "") for label in labels], count)
            yield family
        gauges = [GaugeMetricFamily(PREFIX + name, text, labels=("queue", "env")) for name, text in QUEUES.items()]
        for queue, environment, members, overdue_s in metrics.backlog.waiting if metrics.backlog is not None else ():
            for gauge, value in zip(gauges, (members, overdue_s), strict=True):
                gauge.add_metric([queue, environment], value)
        yield from gauges
        name, text, labels = EVICTS
        store_evicts = GaugeMetricFamily(PREFIX + name, text, labels=labels)
        for policy, value in metrics.evicts.items():
            store_evicts.add_metric([policy], value)
        yield store_evicts
        for attribute, (name, text) in HISTOGRAMS.items():
            histogram: Histogram = getattr(metrics, attribute)
            yield HistogramMetricFamily(PREFIX + name, text, buckets=histogram.buckets(), sum_value=histogram.total)
        age = time.time() - metrics.probe_at if metrics.probe_at else float("inf")
        yield GaugeMetricFamily(PREFIX + "tasks", "Tasks of the event loop.", value=_tasks())
        yield GaugeMetricFamily(PREFIX + "probe_age_seconds", "Since the bus was last proved; +Inf: never.", value=age)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0  # outside a loop there are none
