"""From what a backend posts - our own fields or a CloudEvents 1.0 event - to a `Change`, or why not. Pure.

Written out by hand rather than as models: a batch has 500 of them and this is most of its cost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from planwire_client.core import document
from planwire_client.core.commit import order_token
from planwire_client.core.limits import EVENT_ID_MAX, ORDER_INTEGER_MAX, ORDER_MAX, VERSION_MAX
from planwire_client.core.topic import RESERVED_KINDS, Topic, TopicError
from sync.http.problem import Problem
from sync.store.store import Change

CAUSE_TEXT_MAX = 256
ATTRIBUTE_MAX = 255
"""Characters; of a CloudEvents attribute: two of them and a space make an event id."""

FIELDS = frozenset(("topic", "state", "private", "event_id", "order", "if_version", "cause"))
"""What a publish may have. Others are refused: a misspelt `if_version` must not publish unconditionally."""

CAUSE_TEXTS = {"source": CAUSE_TEXT_MAX, "event_id": EVENT_ID_MAX, "event_type": CAUSE_TEXT_MAX}
"""Members of a cause that are text, and the characters each may have."""

CAUSE_TIMES = ("occurred_at", "received_at")
CAUSE_FIELDS = frozenset((*CAUSE_TEXTS, *CAUSE_TIMES))

RFC3339_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
_RFC3339 = re.compile(RFC3339_PATTERN)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a state may be: bytes of its compact JSON (the private part's too), and depth of nesting."""

    state_max_bytes: int
    state_max_depth: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Who publishes and when: the key's name, and RFC 3339 UTC. Completes a cause that does not say."""

    source: str
    received_at: str


def origin(source: str, now: float) -> Origin:
    """Return the origin of a publish by `source` at `now` (seconds since 1970)."""
    return Origin(source, datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def read_change(item: object, limits: Limits, by: Origin) -> Change:
    """Return the change that a publish or a CloudEvent asks for; an object with `specversion` is the latter.

    Raises:
        Problem: it is malformed or beyond a limit; the code is topic_invalid, topic_reserved, state_too_large,
            state_too_deep, number_unsafe or request_invalid.
    """
    if not isinstance(item, dict):
        raise _invalid("a publish is a JSON object")
    if "specversion" in item:
        item = _from_cloud_event(item)
    elif not item.keys() <= FIELDS:
        raise _invalid(f"unknown field {min(item.keys() - FIELDS)[:80]!r}")
    topic = _topic(item.get("topic"))
    if "state" not in item:
        raise _invalid("state is missing")
    event_id = _text(item, "event_id", EVENT_ID_MAX)
    private = item.get("private")
    return Change(
        topic=topic,
        state=_encode("state", item["state"], limits),
        private=b"" if private is None else _encode("private", private, limits),
        event_id=event_id,
        order=_order(item.get("order")),
        if_version=_if_version(item.get("if_version")),
        cause=_cause(item.get("cause"), event_id, by),
    )


def _from_cloud_event(event: dict[str, object]) -> dict[str, object]:
    """Return a structured-mode event (CloudEvents 1.0, JSON format) as a publish.

    subject names the topic, data is the state, source and id together are the dedupe key (section 3.1.1), and the
    extension `sequence`, where given, orders. Other attributes are ignored, as the specification asks, and null ones
    count as absent.
    """
    if event.get("specversion") != "1.0":
        raise _invalid("specversion must be 1.0")
    for name in ("id", "source", "type", "subject"):
        value = event.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= ATTRIBUTE_MAX:
            raise _invalid(f"{name} must be a string of 1 to {ATTRIBUTE_MAX} characters")
    content = event.get("datacontenttype")
    plain = content.partition(";")[0].strip().lower() if isinstance(content, str) else ""
    is_json = content is None or plain == "application/json" or plain.endswith("+json")
    if event.get("data_base64") is not None or "data" not in event or not is_json:
        raise _invalid("the event must carry its state as JSON in data")
    cause = {"source": event["source"], "event_id": event["id"], "event_type": event["type"]}
    if event.get("time") is not None:
        cause["occurred_at"] = event["time"]
    item = {
        "topic": event["subject"],
        "state": event["data"],
        "event_id": f"{event['source']} {event['id']}",
        "cause": cause,
    }
    if event.get("sequence") is not None:
        item["order"] = event["sequence"]
    return item


def _invalid(detail: str) -> Problem:
    return Problem("request_invalid", detail)


def _topic(value: object) -> str:
    if not isinstance(value, str):
        raise _invalid("topic must be a string")
    return publishable(value)


def publishable(name: str) -> str:
    """Return `name`, a topic that may be published to.

    Raises:
        Problem: topic_invalid, or topic_reserved for the gateways' own probes and reports.
    """
    try:
        topic = Topic.parse(name)
    except TopicError as error:
        raise Problem("topic_invalid", str(error)) from None
    if topic.kind in RESERVED_KINDS:
        raise Problem("topic_reserved", f"topics of kind {topic.kind} are the gateways' own")
    return name


def _encode(part: document.Part, value: object, limits: Limits) -> bytes:
    try:
        return document.encode(part, value, limits.state_max_bytes, limits.state_max_depth)
    except document.DocumentError as error:
        raise Problem(error.code, error.detail) from None


def _text(item: dict[str, object], name: str, longest: int) -> str:
    value = item.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise _invalid(f"{name} must be a string of 1 to {longest} characters")
    return value


def _whole(value: object) -> int | None:
    """Return an integer as JSON means it: 7 and 7.0 are the same number; None for anything else."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= VERSION_MAX:
        return int(value)
    return None


def _order(value: object) -> str:
    if value is None:
        return ""
    number = _whole(value)
    if number is not None and 0 <= number <= ORDER_INTEGER_MAX:
        return order_token(number)
    if isinstance(value, str) and 1 <= len(value) <= ORDER_MAX:
        return value
    raise _invalid(f"order must be an integer from 0, or a string of 1 to {ORDER_MAX} characters compared bytewise")


def _if_version(value: object) -> int | None:
    if value is None:
        return None
    number = _whole(value)
    if number is None or not 0 <= number <= VERSION_MAX:
        raise _invalid("if_version must be an integer from 0 to 2^53-1 (0: no state yet)")
    return number


def _cause(value: object, event_id: str, by: Origin) -> bytes:
    """Return the cause as JSON: what was given, completed by the event id and when it came, and who published.

    Where the caller names a source of their own, the key's name stands beside it.
    """
    cause: dict[str, object] = {"source": by.source}
    if event_id:
        cause["event_id"] = event_id
    cause["received_at"] = by.received_at
    given = {} if value is None else _given_cause(value)
    cause.update(given)
    if "source" in given:
        cause["by"] = by.source
    return orjson.dumps(cause)


def _given_cause(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value.keys() <= CAUSE_FIELDS:
        raise _invalid(f"cause is an object of {', '.join((*CAUSE_TEXTS, *CAUSE_TIMES))}")
    given = {name: member for name, member in value.items() if member is not None}
    for name, member in given.items():
        longest = CAUSE_TEXTS.get(name)
        if longest is None:
            if not _is_time(member):
                raise _invalid(f"cause.{name} must be an RFC 3339 time")
        elif not isinstance(member, str) or not 1 <= len(member) <= longest:
            raise _invalid(f"cause.{name} must be a string of 1 to {longest} characters")
    return given


def _is_time(value: object) -> bool:
    """Whether it is an RFC 3339 time that exists."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
