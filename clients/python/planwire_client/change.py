"""What is published and what became of it, as values; and how a call's attempts follow one another. Pure.

Sending is the transports' part (http.py, store.py), waiting the publisher's. `deliver` says what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from planwire_client.core import document
from planwire_client.core.commit import Verdict
from planwire_client.core.limits import (
    EVENT_ID_MAX,
    ORDER_INTEGER_MAX,
    ORDER_MAX,
    STATE_MAX_BYTES,
    STATE_MAX_DEPTH,
    VERSION_MAX,
)
from planwire_client.core.topic import RESERVED_KINDS, Topic, TopicError
from planwire_client.errors import PublishRefused, RateLimited, Unavailable

BATCH_ITEMS = 500
"""What a gateway takes in one batch (its BATCH_MAX_ITEMS)."""

BATCH_BYTES = 4_000_000
"""A little below the gateway's BATCH_MAX_BYTES, for the brackets and commas."""

ATTEMPTS_MAX = 5
PATIENCE_S = 30.0
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0

TRANSIENT_ITEM_CODES = frozenset(("store_unavailable", "internal"))


@dataclass(frozen=True, slots=True)
class Publish:
    """One publish of a topic's whole state.

    Attributes:
        topic: `[env/]kind:id`, such as tenant:acme.
        state: the whole public state, JSON values; normally an object.
        private: the part that browsers never see, or None.
        event_id: what makes a repetition harmless, for seven days. Made up where absent, so that retries are safe.
        order: an integer, or text compared bytewise; not above the stored one: stale. None: no order.
        if_version: only if this is the stored version (0: no state yet), else conflict. None: whatever is stored.
        cause: why; of source, event_id, event_type, occurred_at, received_at (RFC 3339), each optional.
    """

    topic: str
    state: object
    private: object = None
    event_id: str | None = None
    order: int | str | None = None
    if_version: int | None = None
    cause: Mapping[str, str] | None = None

    def document(self) -> dict[str, object]:
        """Return the JSON object that `POST /v1/publish` takes."""
        document: dict[str, object] = {"topic": self.topic, "state": self.state}
        for name in ("private", "event_id", "order", "if_version", "cause"):
            value = getattr(self, name)
            if value is not None:
                document[name] = value
        return document


@dataclass(frozen=True, slots=True)
class Published:
    """A verdict. `version`: the topic's version after the call, microseconds since 1970, 0 for no state."""

    topic: str
    verdict: Verdict
    version: int
    event_id: str

    @property
    def is_effective(self) -> bool:
        """Whether the topic has, or had, this state by this event.

        A duplicate counts: a retry whose first attempt arrived is one.
        """
        return self.verdict in (Verdict.APPLIED, Verdict.UNCHANGED, Verdict.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item of a batch that got no verdict: it is wrong, or (code `superseded`) a later one of its topic stands."""

    topic: str
    code: str
    detail: str


Outcome = Published | Rejected


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a call goes on. All bounds hold at once; times in seconds."""

    attempts: int = ATTEMPTS_MAX
    patience_s: float = PATIENCE_S
    backoff_min_s: float = BACKOFF_MIN_S
    backoff_max_s: float = BACKOFF_MAX_S

    def pause_s(self, failures: int, chance: float) -> float:
        """Return how long to wait after the given number of failures: full jitter. `chance`: in [0, 1)."""
        return chance * min(self.backoff_max_s, self.backoff_min_s * 2.0 ** min(failures, 30))


class Send(NamedTuple):
    """Send these; the reply is `Answers` or `Trouble`. `timeout_s` is what is left of the patience."""

    items: Sequence[Publish]
    timeout_s: float


class Sleep(NamedTuple):
    """Wait so long."""

    seconds: float


class Answers(NamedTuple):
    """One outcome for each item sent."""

    outcomes: Sequence[Outcome]


class Trouble(NamedTuple):
    """No answer, or one that says: later. `retry_after_s`: None where nothing was asked for."""

    detail: str
    is_rate: bool = False
    retry_after_s: float | None = None


Step = Send | Sleep
Reply = Answers | Trouble | None


def identified(item: Publish, new_id: Callable[[], str]) -> Publish:
    """Return the item with an event id: its own, or one made up."""
    if item.event_id is not None:
        return item
    return Publish(
        item.topic, item.state, item.private, new_id(), item.order, item.if_version, item.cause
    )  # dataclasses.replace costs four times as much, and a batch has many


def check(item: Publish) -> None:
    """Return when the item's fields are such as a store may be given.

    Raises:
        PublishRefused: with the code a gateway would answer.
    """
    try:
        kind = Topic.parse(item.topic).kind
    except TopicError as error:
        raise PublishRefused("topic_invalid", str(error)) from None
    if kind in RESERVED_KINDS:
        raise PublishRefused("topic_reserved", f"topics of kind {kind} are the gateways' own")
    if item.event_id is not None and not 1 <= len(item.event_id) <= EVENT_ID_MAX:
        raise PublishRefused("request_invalid", f"event_id must have 1 to {EVENT_ID_MAX} characters")
    if isinstance(item.order, int):
        if not 0 <= item.order <= ORDER_INTEGER_MAX:
            raise PublishRefused("request_invalid", "order must not be negative nor exceed 2^64-1")
    elif item.order is not None and not 1 <= len(item.order) <= ORDER_MAX:
        raise PublishRefused("request_invalid", f"order must have 1 to {ORDER_MAX} characters")
    if item.if_version is not None and not 0 <= item.if_version <= VERSION_MAX:
        raise PublishRefused("request_invalid", "if_version must be an integer from 0 to 2^53-1 (0: no state yet)")


def encode(part: document.Part, value: object) -> bytes:
    """Return `value` as canonical JSON: sorted keys, compact, UTF-8; the same bytes as every other writer makes.

    Raises:
        PublishRefused: it is no JSON, too large or too deep, or has a number that not every reader reads as it is.
    """
    try:
        return document.encode(part, value, STATE_MAX_BYTES, STATE_MAX_DEPTH)
    except document.DocumentError as error:
        raise PublishRefused(error.code, error.detail) from error


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
        Unavailable: the attempts or the patience ran out.
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
            reply = Trouble(detail)
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
