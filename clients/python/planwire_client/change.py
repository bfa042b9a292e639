"""Publishes and their outcomes as values, and the checks before a publish. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from planwire_client.core import document
from planwire_client.core.commit import Verdict
from planwire_client.core.limits import EVENT_ID_MAX, ORDER_INTEGER_MAX, ORDER_MAX, VERSION_MAX
from planwire_client.core.topic import UNPUBLISHED_KINDS, Topic, TopicError
from planwire_client.errors import PublishRefused


@dataclass(frozen=True, slots=True)
class Publish:
    """One publish of a topic's whole state.

    Attributes:
        topic: `[env/]kind:id`, such as workspace:acme; not a tenant that billing computes.
        state: the whole public state, JSON values; usually an object.
        private: the part that is never sent to browsers, or None.
        event_id: the deduplication key, remembered for seven days. None: one is generated, so that retries are safe.
        order: an integer, or text compared bytewise. If it is not above the stored order, the verdict is stale. None:
            no order.
        if_version: the required stored version (0: no state yet); otherwise the verdict is conflict. None: any.
        cause: an object with source, event_id, event_type, occurred_at, received_at (RFC 3339), each optional.
    """

    topic: str
    state: object
    private: object = None
    event_id: str | None = None
    order: int | str | None = None
    if_version: int | None = None
    cause: Mapping[str, str] | None = None

    def document(self) -> dict[str, object]:
        """Return the JSON object for `POST /v1/publish`."""
        document: dict[str, object] = {"topic": self.topic, "state": self.state}
        for name in ("private", "event_id", "order", "if_version", "cause"):
            value = getattr(self, name)
            if value is not None:
                document[name] = value
        return document


class Fields(TypedDict, total=False):
    """The fields of a publish besides topic and state; see `Publish`."""

    private: object
    event_id: str | None
    order: int | str | None
    cause: Mapping[str, str] | None


class ConditionalFields(Fields, total=False):
    """The fields of an immediate publish besides topic and state; see `Publish`."""

    if_version: int | None


@dataclass(frozen=True, slots=True)
class Published:
    """A verdict. `version`: the topic's version after the call, in microseconds since 1970; 0: no state."""

    topic: str
    verdict: Verdict
    version: int
    event_id: str

    @property
    def is_effective(self) -> bool:
        """Whether the topic has, or had, this state after this event.

        A duplicate counts: it is usually a retry after a lost answer.
        """
        return self.verdict in (Verdict.APPLIED, Verdict.UNCHANGED, Verdict.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected item of a batch: it is invalid, or (code `superseded`) a later item of its topic is committed."""

    topic: str
    code: str
    detail: str


Outcome = Published | Rejected


def identified(item: Publish, new_id: Callable[[], str]) -> Publish:
    """Return the item with an event id: its own, or a generated one."""
    if item.event_id is not None:
        return item
    return Publish(
        item.topic, item.state, item.private, new_id(), item.order, item.if_version, item.cause
    )  # dataclasses.replace takes four times as long, and batches are large


def check(item: Publish) -> None:
    """Return if the item's fields are valid.

    Raises:
        PublishRefused: they are not; with the code that a gateway would answer.
    """
    try:
        kind = Topic.named(item.topic).kind
    except TopicError as error:
        raise PublishRefused("topic_invalid", str(error)) from None
    if kind in UNPUBLISHED_KINDS:
        raise PublishRefused("topic_reserved", f"topics of kind {kind} are written by planwire itself")
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
    """Return `value` as canonical JSON: sorted keys, compact, UTF-8; every writer produces the same bytes.

    Raises:
        PublishRefused: it is not JSON, too large or too deep, or has a number that some readers cannot represent.
    """
    try:
        return document.encode(part, value)
    except document.DocumentError as error:
        raise PublishRefused(error.code, error.detail) from error
