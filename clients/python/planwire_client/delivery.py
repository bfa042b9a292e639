"""The attempts of a publish call: batches, retries, pauses. Pure: the caller sends and sleeps.

The same code serves threads and asyncio: `deliver` is a coroutine, and `finished` runs it if its functions never wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson

from planwire_client.change import Outcome, Publish, Published, Rejected
from planwire_client.core import document
from planwire_client.errors import PublishRefused, RateLimited, Unavailable

T = TypeVar("T")

BATCH_ITEMS = 500
"""Maximum items of one batch at a gateway (its BATCH_MAX_ITEMS)."""

BATCH_BYTES = 4_000_000
"""Maximum bytes of a batch: a little below the gateway's BATCH_MAX_BYTES, to leave room for brackets and commas."""

LATER = frozenset((408, 425, 429, 500, 502, 503, 504))
"""HTTP statuses after which a retry may succeed. After a 500 it is safe too, because of the event id or key."""

TRANSIENT_ITEM_CODES = frozenset(("store_unavailable", "internal"))


@dataclass(frozen=True, slots=True)
class Retries:
    """The bounds of a call's retries. The first one reached ends the call. Times are in seconds."""

    attempts: int = 5
    total_timeout_s: float = 30.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 5.0

    def pause_s(self, failures: int, chance: float) -> float:
        """Return the backoff in seconds after this number of failures, with full jitter. `chance`: in [0, 1)."""
        return chance * min(self.backoff_max_s, self.backoff_min_s * 2.0 ** min(failures, 30))


class Answers(NamedTuple):
    """One outcome for each item sent."""

    outcomes: Sequence[Outcome]


class Retryable(NamedTuple):
    """No answer, or an answer that allows a retry. `retry_after_s`: the requested pause in seconds, or None."""

    detail: str
    is_rate: bool = False
    retry_after_s: float | None = None


Send = Callable[[Sequence[Publish], float], Awaitable[Answers | Retryable]]
"""Makes one attempt to send items. The second argument is the timeout in seconds."""

Sleep = Callable[[float], Awaitable[None]]


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("the coroutine waits")


def unsafe_number(item: Publish) -> Rejected | None:
    """Return the rejection of an item with an invalid number, else None.

    This must be checked before sending: an integer beyond 64 bits cannot be sent, and NaN would arrive as null.
    """
    try:
        document.check("state", item.state)
        document.check("private", item.private)
    except document.DocumentError as error:
        # The gateway rejects too deep nesting by its own limit.
        return Rejected(item.topic, error.code, error.detail) if error.code == "number_unsafe" else None
    return None


def chunks(items: Sequence[Publish]) -> list[list[Publish]]:
    """Return the items in order, split into batches within the gateway's limits.

    Raises:
        PublishRefused: an item is not JSON.
    """
    found: list[list[Publish]] = []
    room = 0
    for item in items:
        try:
            size = len(orjson.dumps(item.document())) + 1
        except TypeError as error:
            detail = f"the publish of {item.topic[:200]} is not JSON: {error}"
            raise PublishRefused("request_invalid", detail) from error
        if not found or len(found[-1]) == BATCH_ITEMS or size > room:
            found.append([])
            room = BATCH_BYTES
        found[-1].append(item)
        room -= size
    return found


async def deliver(
    items: Sequence[Publish],
    retries: Retries,
    send: Send,
    sleep: Sleep,
    now: Callable[[], float],
    chance: Callable[[], float],
) -> list[Outcome]:
    """Send all items, with retries; return every item's outcome, in order.

    Batches are sent one after another. An item is not retried once a later item of its topic is committed, because the
    older state would undo it. Items with invalid numbers are rejected without sending.

    Args:
        now: a clock in seconds.
        chance: numbers in [0, 1).

    Raises:
        PublishRefused: an item is not JSON.
        Unavailable: the attempts or the time ran out.
    """
    known: list[Outcome | None] = [unsafe_number(item) for item in items]
    sendable = [at for at, outcome in enumerate(known) if outcome is None]
    until = now() + retries.total_timeout_s
    for batch in chunks([items[at] for at in sendable]):
        pending, sendable = sendable[: len(batch)], sendable[len(batch) :]
        failures = 0
        while pending:
            reply = await send([items[at] for at in pending], max(0.1, until - now()))
            if isinstance(reply, Answers):
                pending, detail = _note(items, pending, reply.outcomes, known)
                if not pending:
                    break
                reply = Retryable(detail)
            failures += 1
            # Wait at least the requested time; the jitter spreads the callers.
            pause_s = retries.pause_s(failures, chance()) + (reply.retry_after_s or 0.0)
            if failures >= retries.attempts or now() + pause_s > until:
                raise _unavailable(reply, failures, items, known)
            await sleep(pause_s)
    return [outcome for outcome in known if outcome is not None]


def _note(
    items: Sequence[Publish], pending: Sequence[int], outcomes: Sequence[Outcome], known: list[Outcome | None]
) -> tuple[list[int], str]:
    """Store the new outcomes in `known`; return the positions to retry, and the reason."""
    last_stands: dict[str, int] = {}
    for at, outcome in zip(pending, outcomes, strict=True):
        if isinstance(outcome, Published) and outcome.is_effective:
            last_stands[items[at].topic] = at
    again, detail = [], ""
    for at, outcome in zip(pending, outcomes, strict=True):
        if isinstance(outcome, Rejected) and outcome.code in TRANSIENT_ITEM_CODES:
            if last_stands.get(outcome.topic, -1) < at:
                again.append(at)
                detail = f"{outcome.code}: {outcome.detail}"
                continue
            outcome = Rejected(outcome.topic, "superseded", "a later publish of the topic was committed")
        known[at] = outcome
    return again, detail


def _unavailable(
    reply: Retryable, failures: int, items: Sequence[Publish], known: Sequence[Outcome | None]
) -> Unavailable:
    event_ids = tuple(str(item.event_id) for item, outcome in zip(items, known, strict=True) if outcome is None)
    if reply.is_rate:
        return RateLimited(reply.detail, failures, event_ids, tuple(known), reply.retry_after_s or 0.0)
    return Unavailable(reply.detail, failures, event_ids, tuple(known))
