"""The kinds of metrics: how an attribute declares one, and how it is exported to Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

PREFIX: Final = "planwire_"


class Histogram:
    """Counts of observed seconds per bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count `times` observations of `seconds`. Negative seconds (a clock that ran backwards) count as 0."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, cumulative count) pairs, as Prometheus expects them."""
        running, result = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


@dataclass(frozen=True, slots=True)
class Declared:
    """How an attribute of `Metrics` is exported. `name`: without `planwire_` and `_total`; `text`: the help text."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    labels: tuple[str, ...] = ()


def counter(name: str, text: str, *labels: str) -> Any:
    """Declare a counter: an int, or with labels a Counter by their values."""
    return _declared(Declared("counter", name, text, labels), Counter if labels else int)


def gauge(name: str, text: str, *labels: str, kind: type[int] = int) -> Any:
    """Declare a gauge: `kind`, or with labels a Counter by their values."""
    return _declared(Declared("gauge", name, text, labels), Counter if labels else kind)


def histogram(name: str, text: str, bounds_s: Sequence[float]) -> Any:
    """Declare a histogram with these upper bounds, in seconds."""
    return _declared(Declared("histogram", name, text), partial(Histogram, bounds_s))


def _declared(declared: Declared, make: Callable[[], object]) -> Any:
    return field(init=False, default_factory=make, metadata={"declared": declared})


def family_of(declared: Declared, value: Any) -> Metric:
    """Return the family of a metric's attribute."""
    name, text = PREFIX + declared.name, declared.text
    if isinstance(value, Histogram):
        return HistogramMetricFamily(name, text, buckets=value.buckets(), sum_value=value.total)
    kind = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    family = kind(name, text, labels=declared.labels)
    for key, count in value.items() if declared.labels else (((), value),):
        family.add_metric([str(part) for part in (key if isinstance(key, tuple) else (key,))], count)
    return family
