"""The parts of a gateway's reports to consoles: topic names, latencies, counters, and the size limit. Pure.

Reports contain no nulls and no arrays of rows, so that the merge patch between two of them is small. They have at most
`REPORT_MAX_BYTES`: they list the worst rows and count the rest.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.console.reports.tab_status import Status
from gateway.metric_kinds import Histogram
from gateway.metrics import Metrics
from planwire_client.core import canonical_json

REPORT_MAX_BYTES = 24_576
"""Maximum size of a report in bytes. The limit of a state is 32 KiB."""

UNHEALTHY_MAX = 40
TABS_MAX = 100
"""Maximum number of unhealthy topics, and of tabs of a topic, in a report."""

WINDOW_S = 60.0
"""Seconds covered by a report's latencies."""

_COUNTED = (
    "replaced", "conflated", "acks", "nacks", "announcements", "opened", "resets", "probes_missed", "feed_losses",
    "sweep_repairs", "revocations",
)  # fmt: skip


def gateway_topic(node: str) -> str:
    """Return the topic of a gateway's report on itself."""
    return f"gateway:{node}"


def tabs_topic(node: str, topic: str) -> str:
    """Return the topic of a gateway's report on the tabs of `topic`. It has a digest, because names can be too long."""
    return f"console:{node}.{hashlib.sha256(topic.encode()).hexdigest()[:24]}"


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return the bucket bound of the quantile `share` (0 to 1); None: it is beyond the last bound."""
    running = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        running += count
        if running >= share * sum(histogram.counts):
            return bound
    return None


class Window:
    """Counts of a histogram over the last `WINDOW_S` seconds, or longer if it was not read for a while.

    Time is an argument, in seconds of any monotonic clock.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        nothing = (0,) * len(histogram.counts)
        self._past: deque[tuple[float, tuple[int, ...]]] = deque([(float("-inf"), nothing)])

    def latency(self, now: float) -> dict[str, Any]:
        """Return the number of observations, and the bounds of their median and 99th percentile."""
        counts = tuple(self._histogram.counts)
        if now - self._past[-1][0] >= 1:
            self._past.append((now, counts))
        while len(self._past) > 1 and now - self._past[1][0] >= WINDOW_S:
            self._past.popleft()
        recent = Histogram(self._histogram.bounds)
        recent.counts = [new - old for new, old in zip(counts, self._past[0][1], strict=True)]
        found: dict[str, Any] = {"count": sum(recent.counts)}
        for name, share in (("p50", 0.5), ("p99", 0.99)) if found["count"] else ():
            if (bound := quantile(recent, share)) is not None:
                found[f"{name}_s"] = bound
            else:
                found[f"{name}_beyond_s"] = recent.bounds[-1]
        return found


def counters(metrics: Metrics) -> dict[str, int]:
    """Return the counts of the process since its start."""
    return {name: int(getattr(metrics, name)) for name in _COUNTED} | {
        "deliveries": metrics.sent,
        "delivered_bytes": metrics.sent_bytes,
        "closed": metrics.closed.total(),
        "refused": metrics.refused.total(),
        "auth_failures": metrics.auth_failures.total(),
        "publishes": metrics.verdicts.total(),
        "publish_refusals": sum(metrics.verdicts[verdict] for verdict in ("stale", "conflict", "error")),
    }


def worst_topics(unhealthy: Mapping[str, Mapping[str, int]], limit: int = UNHEALTHY_MAX) -> list[str]:
    """Return the names of the worst `limit` topics, by their number of tabs in the worst status, then in the next."""
    counts = {name: [-unhealthy[name].get(status, 0) for status in Status] for name in unhealthy}
    return heapq.nsmallest(limit, unhealthy, key=lambda name: (counts[name], name))


def fitted(report: dict[str, Any], member: str, left_out: str, max_bytes: int = REPORT_MAX_BYTES) -> bytes:
    """Return a report as canonical JSON of at most `max_bytes`. Rows of `member` are dropped from the end to fit.

    Args:
        report: the report; it is changed.
        member: the member with the rows.
        left_out: the member with the number of rows not listed; dropped rows are added to it. "": none.
        max_bytes: the limit. The result exceeds it only if the report is too large without any row.
    """
    encoded = canonical_json.encode(report)
    while len(encoded) > max_bytes and report[member]:
        rows: dict[str, Any] = report[member]
        keep = min(len(rows) - 1, len(rows) * max_bytes // len(encoded))
        for name in list(rows)[keep:]:
            del rows[name]
            if left_out:
                report[left_out] = report.get(left_out, 0) + 1
        encoded = canonical_json.encode(report)
    return encoded


def rows_by_session(tabs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the rows of tabs by session, without empty members."""
    return {
        str(tab["session"]): {name: tab[name] for name in tab if tab[name] not in (None, "") and name != "session"}
        for tab in tabs
    }
