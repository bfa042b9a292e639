"""What a gateway reports to consoles, as states of topics: of itself, and of the tabs of one topic. Pure.

No nulls and no arrays of rows, so that the merge patch between two reports is small; and never more than
`REPORT_MAX_BYTES`, the worst first, with counts of what is left out.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.console.reports.tab_status import Status, quantile, worst
from gateway.metrics import Histogram, Metrics
from planwire_client.core import canonical_json

GATEWAY_KIND, TABS_KIND = "gateway", "console"

REPORT_MAX_BYTES = 24_576
"""Bytes of one report; topics may have 32 KiB."""

TROUBLE_MAX = 40
TABS_MAX = 100
"""Topics in trouble, and tabs of a topic, that a report names."""

WINDOW_S = 60.0
"""What a report's latencies are of."""

_RANK = {status: rank for rank, status in enumerate(Status)}

_COUNTED = {
    "deliveries": "sent",
    "delivered_bytes": "sent_bytes",
    **{
        name: name
        for name in (
            "replaced", "conflated", "acks", "nacks", "announcements", "opened", "resets", "probes_missed",
            "feed_losses", "sweep_repairs", "revocations",
        )
    },
}  # fmt: skip


def gateway_topic(node: str) -> str:
    """Return the topic that a gateway reports of itself on."""
    return f"{GATEWAY_KIND}:{node}"


def tabs_topic(node: str, topic: str) -> str:
    """Return the topic that a gateway reports the tabs of `topic` on; a digest, since a name can be too long."""
    return f"{TABS_KIND}:{node}.{hashlib.sha256(topic.encode()).hexdigest()[:24]}"


class Window:
    """Counts of a histogram over the last `WINDOW_S` seconds; over longer where nobody looked meanwhile.

    Time is an argument, in seconds of any steady clock.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        nothing = (0,) * len(histogram.counts)
        self._past: deque[tuple[float, tuple[int, ...]]] = deque([(float("-inf"), nothing)])

    def latency(self, now: float) -> dict[str, Any]:
        """Return how many were observed, and the bounds that half and 99 of 100 of them stayed within."""
        counts = tuple(self._histogram.counts)
        if now - self._past[-1][0] >= 1:
            self._past.append((now, counts))
        while len(self._past) > 1 and now - self._past[1][0] >= WINDOW_S:
            self._past.popleft()
        recent = Histogram(self._histogram.bounds)
        recent.counts = [new - old for new, old in zip(counts, self._past[0][1], strict=True)]
        found: dict[str, Any] = {"count": sum(recent.counts)}
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            bound = quantile(recent, share)
            if bound is not None and bound.within_s is not None:
                found[f"{name}_s"] = bound.within_s
            elif bound is not None:
                found[f"{name}_beyond_s"] = bound.beyond_s
        return found


def counters(metrics: Metrics) -> dict[str, int]:
    """Return what the process has counted since it started."""
    found = {name: int(getattr(metrics, attribute)) for name, attribute in _COUNTED.items()}
    found["closed"] = metrics.closed.total()
    found["refused"] = metrics.refused.total()
    found["auth_failures"] = metrics.auth_failures.total()
    found["publishes"] = metrics.verdicts.total()
    found["publish_refusals"] = sum(metrics.verdicts[verdict] for verdict in ("stale", "conflict", "error"))
    return found


def statuses(counts: Mapping[Status, int]) -> dict[str, int]:
    """Return the counts by name, without zeros."""
    return {status.value: counts[status] for status in Status if counts.get(status)}


def trouble(troubled: Mapping[str, Mapping[Status, int]], limit: int = TROUBLE_MAX) -> list[str]:
    """Return the names of the worst topics, at most `limit`: by the worst status, then by how many tabs have it."""

    def key(name: str) -> tuple[int, int, str]:
        counts = troubled[name]
        status = worst(counts)
        return (_RANK[status], -counts[status], name) if status is not None else (len(_RANK), 0, name)

    return heapq.nsmallest(limit, troubled, key=key)


def fitted(report: dict[str, Any], member: str, left_out: str, max_bytes: int = REPORT_MAX_BYTES) -> bytes:
    """Return a report as canonical JSON of at most `max_bytes`: rows of `member`, the last first, give way.

    `left_out` names the count of rows that are not listed; it is raised by those that gave way. What remains may be
    larger only if the report is too large without any row.
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


def tab_row(tab: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tab's line without what is not known of it."""
    return {name: value for name, value in tab.items() if value not in (None, "") and name != "session"}


def listed(tabs: Sequence[Mapping[str, Any]], limit: int = TABS_MAX) -> dict[str, dict[str, Any]]:
    """Return the first `limit` tabs by their sessions."""
    return {str(tab["session"]): tab_row(tab) for tab in tabs[:limit]}
