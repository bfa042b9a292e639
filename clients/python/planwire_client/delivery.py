"""How a call's attempts follow one another: batches, retries, pauses. Pure.

`deliver` yields the next step; a publisher sleeps, and sends through a transport (http.py, store.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from planwire_client.change import Outcome, Publish, Published, Rejected
from planwire_client.core import document
from planwire_client.errors import PublishRefused, RateLimited, Unavailable

BATCH_ITEMS = 500
"""Maximum items of one batch at a gateway (its BATCH_MAX_ITEMS)."""

BATCH_BYTES = 4_000_000
"""A little below the gateway's BATCH_MAX_BYTES, for the brackets and commas."""

ATTEMPTS_MAX = 5
TOTAL_TIMEOUT_S = 30.0
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0

TRANSIENT_ITEM_CODES = frozenset(("store_unavailable", "internal"))


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a call goes on. All bounds hold at once; times in seconds."""

    attempts: int = ATTEMPTS_MAX
    patience_s: float = TOTAL_TIMEOUT_S
    backoff_min_s: float = BACKOFF_MIN_S
    backoff_max_s: float = BACKOFF_MAX_S

    def pause_s(self, failures: int, chance: float) -> float:
        """Return how long to wait after the given number of failures: full jitter. `chance`: in [0, 1)."""
        return chance * min(self.backoff_max_s, self.backoff_min_s * 2.0 ** min(failures, 30))


class Send(NamedTuple):
    """Send these; the reply is `Answers` or `Retryable`. `timeout_s`: the seconds left of the total."""

    items: Sequence[Publish]
    timeout_s: float


class Sleep(NamedTuple):
    """Wait so long."""

    seconds: float


class Answers(NamedTuple):
    """One outcome for each item sent."""

    outcomes: Sequence[Outcome]


class Retryable(NamedTuple):
    """No answer, or one that says: later. `retry_after_s`: None where nothing was asked for."""

    detail: str
    is_rate: bool = False
    retry_after_s: float | None = None


Step = Send | Sleep
Reply = Answers | Retryable | None


def unsafe_number(item: Publish) -> Rejected | None:
    """Return the rejection of an item with a number that a gateway would refuse, or could not be sent as it is.

    An integer beyond 64 bits cannot be sent at all, and NaN would arrive as null.
    """
    try:
        document.check("state", item.state)
        document.check("private", item.private)
    except document.DocumentError as error:
        # What is nested too deep is the gateway's to refuse, by its own bound.
        return Rejected(item.topic, error.code, error.detail) if error.code == "number_unsafe" else None
    return None


def chunks(items: Sequence[Publish]) -> list[list[Publish]]:
    """Return the items cut into batches that a gateway takes, in order.

    Raises:
        PublishRefused: one is no JSON.
    """
    found: list[list[Publish]] = []
    room = 0
    for item in items:
        try:
            size = len(orjson.dumps(item.document())) + 1
        except TypeError as error:
            raise PublishRefused(
                "request_invalid", f"the publish of {item.topic[:200]} is not JSON: {error}"
            ) from error
        if not found or len(found[-1]) == BATCH_ITEMS or size > room:
            found.append([])
            room = BATCH_BYTES
        found[-1].append(item)
        room -= size
    return found


def deliver(
    items: Sequence[Publish], retries: Retries, now: Callable[[], float], chance: Callable[[], float]
) -> Generator[Step, Reply, list[Outcome]]:
    """Yield what to do next until every item has an outcome, and return the outcomes in order.

    Batches follow one another, and within one nothing is sent again once a later item of its topic stands: a repeated
    older state would undo it. What has a number that cannot be published is rejected unsent. `now`: a clock in seconds;
    `chance`: numbers in [0, 1).

    Raises:
        PublishRefused: an item is no JSON.
        Unavailable: the attempts or the time ran out.
    """
    known: list[Outcome | None] = [unsafe_number(item) for item in items]
    until = now() + retries.patience_s
    sendable = [index for index, outcome in enumerate(known) if outcome is None]
    for batch in chunks([items[index] for index in sendable]):
        yield from _deliver_batch(batch, sendable[: len(batch)], known, until, retries, now, chance)
        del sendable[: len(batch)]
    return [outcome for outcome in known if outcome is not None]


def _deliver_batch(
    batch: Sequence[Publish],
    positions: Sequence[int],
    known: list[Outcome | None],
    until: float,
    retries: Retries,
    now: Callable[[], float],
    chance: Callable[[], float],
) -> Generator[Step, Reply, None]:
    pending = list(range(len(batch)))
    failures = 0
    while True:
        reply = yield Send([batch[index] for index in pending], max(0.1, until - now()))
        assert reply is not None, "a send is answered"
        if isinstance(reply, Answers):
            pending, detail = _note(batch, positions, pending, reply.outcomes, known)
            if not pending:
                return
            reply = Retryable(detail)
        failures += 1
        pause_s = retries.pause_s(failures, chance())
        if reply.retry_after_s is not None:
            # Asked to wait: never less, and not all at the same instant.
            pause_s += reply.retry_after_s
        if failures >= retries.attempts or now() + pause_s > until:
            event_ids = [str(item.event_id) for item, at in zip(batch, positions, strict=True) if not known[at]]
            if reply.is_rate:
                limited = RateLimited(reply.detail, failures, event_ids, known)
                limited.retry_after_s = reply.retry_after_s or 0.0
                raise limited
            raise Unavailable(reply.detail, failures, event_ids, known)
        yield Sleep(pause_s)


def _note(
    batch: Sequence[Publish],
    positions: Sequence[int],
    pending: Sequence[int],
    outcomes: Sequence[Outcome],
    known: list[Outcome | None],
) -> tuple[list[int], str]:
    """Enter what is known now; return the positions that are to be sent again, and why."""
    last_stands: dict[str, int] = {}
    for index, outcome in zip(pending, outcomes, strict=True):
        if isinstance(outcome, Published) and outcome.is_effective:
            last_stands[batch[index].topic] = index
    again, detail = [], ""
    for index, outcome in zip(pending, outcomes, strict=True):
        if isinstance(outcome, Rejected) and outcome.code in TRANSIENT_ITEM_CODES:
            if last_stands.get(outcome.topic, -1) < index:
                again.append(index)
                detail = f"{outcome.code}: {outcome.detail}"
                continue
            outcome = Rejected(outcome.topic, "superseded", "a later publish of the topic was committed")
        known[positions[index]] = outcome
    return again, detail
