"""The records of clients, publishers and the harness during faults, and the judge of them. Pure.

A history is a list of facts, each with its time in seconds on one clock. Each state has a number `n`, unique within
its topic, so that a shown state can be matched with its publish. `judge` returns every violation, as a sentence that
names the client, the topic and the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Asked:
    """A publisher or provider sent `n` for a topic."""

    at: float
    topic: str
    n: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The publisher received a successful answer. `version`: 0 if the answer has none."""

    at: float
    topic: str
    n: int
    version: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A client shows this now. `n` is None for a topic without state; `reset`: the frame allowed it to go back."""

    at: float
    client: str
    topic: str
    version: int
    n: int | None
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Acked:
    """A client acknowledged a version."""

    at: float
    client: str
    topic: str
    version: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """The newest version that the gateways report as acknowledged by a tab."""

    at: float
    topic: str
    version: int


@dataclass(frozen=True, slots=True)
class Told:
    """A gateway's statement to a client: whether its states are verified as fresh, and when it verified that.

    `late_s`: the client read it at `at`; it may have been sent up to this many seconds earlier.
    """

    at: float
    client: str
    gateway: str
    fresh: bool
    verified_age_s: float = 0.0
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Deaf:
    """The harness kept a gateway from its store, from `at` until `until`."""

    at: float
    until: float
    gateway: str


@dataclass(frozen=True, slots=True)
class Lost:
    """At `at` the store lost all commits after `since`; `held`: gateways that survived still have them."""

    at: float
    since: float = float("-inf")
    held: bool = True


@dataclass(frozen=True, slots=True)
class Healed:
    """No faults and no publishes from `at` until `until`; by then all of `clients` must be current.

    `newest` is the store's content. Without clients: its content at `at`, whatever came later.
    """

    at: float
    until: float
    clients: frozenset[str]
    newest: Mapping[str, int]


EARLY_S = 0.05
"""Tolerance for a `verified_at` in the future: two clocks of one process are read one after the other."""

F = TypeVar("F")

Fact = Asked | Answered | Shown | Acked | Claimed | Told | Deaf | Lost | Healed


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds in seconds: `converge` after the last fault, `notice` until deafness must be reported."""

    converge: float
    notice: float


def judge(history: Sequence[Fact], bounds: Bounds) -> list[str]:
    """Return every violation of the guarantees in `history`, in no particular order."""
    return [
        *_went_back(history),
        *_invented(history),
        *_forgotten(history),
        *_twice(history),
        *_not_converged(history, bounds),
        *_dishonest(history, bounds),
        *_acked_unseen(history),
        *_claimed_unseen(history),
    ]


def _went_back(history: Iterable[Fact]) -> Iterator[str]:
    """No client goes back to a lower version except by `reset`, and `reset` is sent only where data was lost."""
    held: dict[tuple[str, str], int] = {}
    losses = [fact.at for fact in history if isinstance(fact, Lost)]
    for fact in _shown(history):
        key = fact.client, fact.topic
        if fact.reset:
            if not any(at <= fact.at for at in losses):
                yield f"{fact.client} was reset on {fact.topic} at {fact.at:.3f}, and nothing was lost"
        elif fact.version < held.get(key, 0):
            yield f"{fact.client} went back on {fact.topic} at {fact.at:.3f}: {held[key]} -> {fact.version}"
        held[key] = fact.version


def _invented(history: Iterable[Fact]) -> Iterator[str]:
    """Each state shown was published before; a version has the same state everywhere, including the answers."""
    asked: dict[tuple[str, int], float] = {}
    states: dict[tuple[str, int], int | None] = {}
    for fact in history:
        if isinstance(fact, Asked):
            key = fact.topic, fact.n
            asked[key] = min(fact.at, asked.get(key, fact.at))
        elif isinstance(fact, Answered) and fact.version:
            states.setdefault((fact.topic, fact.version), fact.n)
    for fact in _shown(history):
        if fact.version == 0:
            if fact.n is not None:
                yield f"{fact.client} shows state {fact.n} of {fact.topic} as version 0"
            continue
        if fact.n is None or asked.get((fact.topic, fact.n), float("inf")) > fact.at:
            yield f"{fact.client} shows {fact.n} of {fact.topic} at {fact.at:.3f}: nobody had published that"
        known = states.setdefault((fact.topic, fact.version), fact.n)
        if known != fact.n:
            yield f"{fact.client} shows {fact.n} as version {fact.version} of {fact.topic}, which is {known}"


def _forgotten(history: Sequence[Fact]) -> Iterator[str]:
    """After healing, the newest state of each topic is not older than the newest that was answered before.

    Exception: states that the store has lost and that no client had been shown, because no gateway may hold them. A
    state that a client was shown is held by a gateway, if one survived.
    """
    losses = [(loss, _newest_shown(history, loss.at) if loss.held else {}) for loss in _of(history, Lost)]
    shown = {(fact.topic, fact.version): fact.n for fact in history if isinstance(fact, Shown | Answered)}
    for healed in _of(history, Healed):
        answered: dict[str, int] = {}
        for fact in _of(history, Answered):
            if fact.at <= healed.at and not _may_be_gone(fact, losses):
                answered[fact.topic] = max(fact.n, answered.get(fact.topic, 0))
        for topic, n in answered.items():
            version = healed.newest.get(topic, 0)
            newest = shown.get((topic, version))
            if newest is not None and newest < n:
                yield f"{topic} ends at {newest} (version {version}), and {n} had been answered with success"
            if not version:
                yield f"{topic} has no state, and {n} had been answered with success"


def _newest_shown(history: Iterable[Fact], until: float) -> dict[str, int]:
    newest: dict[str, int] = {}
    for fact in _shown(history):
        if fact.at <= until and fact.n is not None:
            newest[fact.topic] = max(fact.n, newest.get(fact.topic, 0))
    return newest


def _may_be_gone(answered: Answered, losses: Iterable[tuple[Lost, Mapping[str, int]]]) -> bool:
    return any(
        loss.since < answered.at <= loss.at and shown.get(answered.topic, 0) < answered.n for loss, shown in losses
    )


def _twice(history: Iterable[Fact]) -> Iterator[str]:
    """An event has one effect: no state has two versions, except one that was lost and that no gateway held."""
    losses = [loss for loss in history if isinstance(loss, Lost) and not loss.held]
    versions: dict[tuple[str, int], set[int]] = defaultdict(set)
    for fact in history:
        if (isinstance(fact, Shown) and fact.n is not None) or (isinstance(fact, Answered) and fact.version):
            assert fact.n is not None
            if not any(loss.since < fact.at <= loss.at for loss in losses):
                versions[fact.topic, fact.n].add(fact.version)
    for (topic, n), found in versions.items():
        if len(found) > 1:
            yield f"{n} of {topic} took effect {len(found)} times: versions {sorted(found)}"


def _not_converged(history: Sequence[Fact], bounds: Bounds) -> Iterator[str]:
    """Within the bound after everything healed, every client shows the newest version of every topic."""
    for healed in _of(history, Healed):
        deadline = min(healed.at + bounds.converge, healed.until)
        held: dict[tuple[str, str], int] = {}
        for fact in _shown(history):
            if fact.at <= deadline:
                held[fact.client, fact.topic] = fact.version
        for client in sorted(healed.clients):
            for topic, version in healed.newest.items():
                shown = held.get((client, topic))
                if shown != version:
                    yield f"{client} shows {shown} of {topic} {deadline - healed.at:.1f} s after healing, not {version}"


def _dishonest(history: Sequence[Fact], bounds: Bounds) -> Iterator[str]:
    """`fresh` has a `verified_at` within the bound, and is not reported by a gateway deaf for longer."""
    for fact in _of(history, Told):
        if fact.fresh and not -EARLY_S < fact.verified_age_s < bounds.notice:
            ago = f"verified {fact.verified_age_s:.1f} s ago"
            yield f"{fact.gateway} told {fact.client} `fresh` at {fact.at:.3f}, {ago}"
    for deaf in _of(history, Deaf):
        for fact in _of(history, Told):
            since = fact.at - fact.late_s - deaf.at
            if fact.gateway == deaf.gateway and fact.fresh and since > bounds.notice and fact.at < deaf.until:
                yield f"{fact.gateway} told {fact.client} `fresh` at {fact.at:.3f}, deaf for {since:.1f} s"


def _acked_unseen(history: Iterable[Fact]) -> Iterator[str]:
    """Clients acknowledge only versions that they have been shown."""
    shown: set[tuple[str, str, int]] = set()
    for fact in history:
        if isinstance(fact, Shown):
            shown.add((fact.client, fact.topic, fact.version))
        elif isinstance(fact, Acked) and (fact.client, fact.topic, fact.version) not in shown:
            yield f"{fact.client} acked version {fact.version} of {fact.topic} without having shown it"


def _claimed_unseen(history: Iterable[Fact]) -> Iterator[str]:
    """Gateways count no version as acknowledged that is newer than all versions shown, even if a client claims one."""
    shown: dict[str, int] = {}
    for fact in history:
        if isinstance(fact, Shown):
            shown[fact.topic] = max(fact.version, shown.get(fact.topic, 0))
        elif isinstance(fact, Claimed) and fact.version > shown.get(fact.topic, 0):
            yield f"version {fact.version} of {fact.topic} counts as acknowledged at {fact.at:.3f}: nobody had shown it"


def _shown(history: Iterable[Fact]) -> Iterator[Shown]:
    return (fact for fact in history if isinstance(fact, Shown))


def _of(history: Iterable[Fact], kind: type[F]) -> Iterator[F]:
    return (fact for fact in history if isinstance(fact, kind))


def converged_at(history: Sequence[Fact], healed: Healed) -> float | None:
    """Return the seconds until the last client showed the newest version of every topic, or None if one never did."""
    latest = 0.0
    for client in healed.clients:
        for topic, version in healed.newest.items():
            mine = [fact for fact in _shown(history) if fact.client == client and fact.topic == topic]
            if not mine or mine[-1].version != version:
                return None
            since = next(
                fact.at for index, fact in enumerate(mine) if all(later.version == version for later in mine[index:])
            )
            latest = max(latest, since - healed.at)
    return latest
