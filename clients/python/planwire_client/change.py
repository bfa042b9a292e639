"""What is published and what became of it, as values, and the checks ahead of the store. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from planwire_client.core import document
from planwire_client.core.commit import Verdict
from planwire_client.core.limits import EVENT_ID_MAX, ORDER_INTEGER_MAX, ORDER_MAX, VERSION_MAX
from planwire_client.core.topic import RESERVED_KINDS, Topic, TopicError
from planwire_client.errors import PublishRefused


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


class Fields(TypedDict, total=False):
    """A publish without its topic and state; `Publish` explains the fields."""

    private: object
    event_id: str | None
    order: int | str | None
    cause: Mapping[str, str] | None


class ConditionalFields(Fields, total=False):
    """The same for a publish that is made at once."""

    if_version: int | None


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


def identified(item: Publish, new_id: Callable[[], str]) -> Publish:
    """Return the item with an event id: its own, or one made up."""
    if item.event_id is not None:
        return item
    return Publish(
        item.topic, item.state, item.private, new_id(), item.order, item.if_version, item.cause
    )  # dataclasses.replace costs four times as much, and a batch has many


def check(item: Publish) -> None:
    """Return if the item's fields may go into a store.

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
        return document.encode(part, value)
    except document.DocumentError as error:
        raise PublishRefused(error.code, error.detail) from error
