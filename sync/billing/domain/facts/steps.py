"""Which of the events of one instant is the last, where the provider's clock is too coarse to order them. Pure.

Each event of such a provider is a step of its subscription, from one state to the next. A creation is the first step,
an end the last. Between them the steps form a path: the state after one is the state before the next. So the last state
is the one that more steps lead to than leave. It depends on the set of the events, not on the order of their arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from sync.billing.domain.facts.order import Order

if TYPE_CHECKING:
    from sync.billing.domain.facts.model import Subscription


class Kind(IntEnum):
    """The kind of a step. A greater kind is newer within one instant."""

    CREATION = 0
    CHANGE = 1
    END = 2


class Step(NamedTuple):
    """What an event says of its place among the events of the same instant.

    Attributes:
        before, after: digests of the subscription before and after the event, the most exact first. Digests of the same
            index can be compared. Empty if they are not known.
    """

    kind: Kind = Kind.CHANGE
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Seen(NamedTuple):
    """One event of a coarse clock, or one answer of its provider.

    Attributes:
        received_ns: when it was first received; 0 if that is not known.
        body: whole while the event may still be the newest; later only id, status and items.
    """

    order: Order
    step: Step
    received_ns: int
    body: Subscription


_NOTHING = ""
"""The state before a creation."""


def path(seen: Sequence[Seen], anchor: tuple[str, ...]) -> list[Seen]:
    """Return the events of one instant as they happened, the newest last; `anchor` as in `last`."""
    left, found = list(seen), list[Seen]()
    while left:
        found.insert(0, last(left, anchor))
        left.remove(found[0])
    return found


def last(seen: Sequence[Seen], anchor: tuple[str, ...]) -> Seen:
    """Return the newest of the events of one instant.

    What their bodies leave open is decided by an answer of the provider, if there is one: the last. Else by the time
    of the first receipt, then by the event id.

    Args:
        anchor: the digests of the subscription before the instant; empty if they are not known.
    """
    if len(seen) == 1:
        return seen[0]
    kind = max(each.step.kind for each in seen)
    candidates = [each for each in seen if each.step.kind == kind]
    for level in range(max(len(each.step.after) for each in seen)):
        if len(candidates) == 1:
            break
        ends = _ends(seen, level, anchor[level] if level < len(anchor) else None)
        candidates = [each for each in candidates if _at(each.step.after, level) in ends] or candidates
    # Answers of the provider have the time of their request, later than that of all events of the instant.
    return max(candidates, key=lambda each: (each.order.occurred_ns, each.received_ns, each.order.event_id))


def _at(digests: tuple[str, ...], level: int) -> str | None:
    return digests[level] if level < len(digests) else None


def _ends(seen: Sequence[Seen], level: int, anchor: str | None) -> set[str | None]:
    """Return the states in which the path of these steps can end.

    There are several if an event is missing. A path that returns to its start can end anywhere, unless the start is
    known: it is the `anchor`.
    """
    parents: dict[str, str] = {}

    def root(state: str) -> str:
        while (parent := parents.setdefault(state, state)) != state:
            state = parent
        return state

    surplus = Counter[str]()
    # An event whose state is not known can be the last.
    ends: set[str | None] = {None}
    for each in seen:
        after = _at(each.step.after, level)
        if after is None:
            continue
        before = _NOTHING if each.step.kind is Kind.CREATION else _at(each.step.before, level) or after
        parents[root(before)] = root(after)
        surplus[after] += 1
        surplus[before] -= 1
    paths: dict[str, list[str]] = {}
    for state in parents:
        paths.setdefault(root(state), []).append(state)
    for states in paths.values():
        ends.update([state for state in states if surplus[state] > 0] or ([anchor] if anchor in states else states))
    return ends
