"""The bodies of publishes - our own fields or a CloudEvents 1.0 event - and their translation to a `Change`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import BeforeValidator, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from gateway.settings import GatewaySettings
from planwire_client.core import document
from planwire_client.core.commit import order_token
from planwire_client.core.limits import EVENT_ID_MAX, ORDER_INTEGER_MAX, ORDER_MAX, VERSION_MAX
from planwire_client.core.topic import UNPUBLISHED_KINDS, Topic, TopicError
from sync.http.fields import TOPIC_PATTERN, Reader, Time
from sync.http.problem import Problem
from sync.store.models import Change

CAUSE_TEXT_MAX = 256
ATTRIBUTE_MAX = 255
"""Maximum characters of a CloudEvents attribute. An event id is two attributes joined by a space."""

JSON_TYPE_PATTERN = r"^(application/json|[a-z]+/[a-z0-9.]+[+]json)(;[ -~]*)?$"


def _whole(value: object) -> object:
    """Return a whole float as an integer (JSON's 7.0 is 7), and any other value unchanged."""
    if type(value) is float and value.is_integer() and abs(value) <= VERSION_MAX:
        return int(value)
    return value


# Typed dictionaries, not models: a batch has up to 500, and they are validated without a copy.

_TopicName = Annotated[
    str,
    WithJsonSchema({"type": "string", "pattern": TOPIC_PATTERN, "examples": ["workspace:acme", "sandbox/flags:acme"]}),
]
_Json = Annotated[Any, WithJsonSchema({})]
"""Any JSON value; `sync.core.document` checks it."""

_CauseText = Annotated[str, Field(min_length=1, max_length=CAUSE_TEXT_MAX)]
_EventId = Annotated[str, Field(min_length=1, max_length=EVENT_ID_MAX)]
_Attribute = Annotated[str, Field(min_length=1, max_length=ATTRIBUTE_MAX)]
_Order = Annotated[
    Annotated[int, Field(ge=0, le=ORDER_INTEGER_MAX)] | Annotated[str, Field(min_length=1, max_length=ORDER_MAX)],
    BeforeValidator(_whole),
]


@with_config(extra="forbid")
class Cause(TypedDict, total=False):
    """Why a version was made. On publishing, absent members are completed: source with the key's name."""

    source: _CauseText | None
    event_id: _EventId | None
    event_type: _CauseText | None
    occurred_at: Annotated[Time | None, Field(description="RFC 3339")]
    received_at: Annotated[Time | None, Field(description="RFC 3339")]


# A misspelt `if_version` must not publish unconditionally.
@with_config(extra="forbid")
class Publish(TypedDict):
    """A topic's whole new state, and under which conditions it counts."""

    topic: _TopicName
    state: Annotated[
        _Json,
        Field(
            description="Any JSON value; the whole public state. At most 32 KiB as compact JSON. Integers beyond"
            " 2^53-1, which a browser reads as other numbers, are refused (number_unsafe): send them as strings."
        ),
    ]
    private: NotRequired[
        Annotated[
            _Json, Field(description="The backend-only part; replaced whole, too. At most 32 KiB; integers of 64 bits.")
        ]
    ]
    event_id: NotRequired[Annotated[_EventId | None, Field(description="Dedupe key, remembered for seven days.")]]
    order: NotRequired[
        Annotated[
            _Order | None,
            Field(
                description="Refused as stale unless above the last one. Integers from 0, or strings compared bytewise"
                f" (at most {ORDER_MAX} characters); keep to one kind per topic."
            ),
        ]
    ]
    if_version: NotRequired[
        Annotated[
            Annotated[int, Field(ge=0, le=VERSION_MAX), BeforeValidator(_whole)] | None,
            Field(description="Refused as conflict unless this is the stored version; 0: none yet."),
        ]
    ]
    cause: NotRequired[Cause | None]


class CloudEvent(TypedDict):
    """A CloudEvents 1.0 event in structured JSON mode. source and id together are the dedupe key."""

    specversion: Literal["1.0"]
    id: _Attribute
    source: _Attribute
    type: _Attribute
    subject: Annotated[
        str, WithJsonSchema({"type": "string", "pattern": TOPIC_PATTERN}), Field(description="The topic.")
    ]
    time: NotRequired[Annotated[Time | None, Field(description="RFC 3339; becomes cause.occurred_at.")]]
    sequence: NotRequired[Annotated[_Order | None, Field(description="Becomes the order.")]]
    datacontenttype: NotRequired[
        Annotated[str | None, Field(examples=["application/json"], json_schema_extra={"pattern": JSON_TYPE_PATTERN})]
    ]
    data: Annotated[_Json, Field(description="The whole new state; as in a publish.")]


_PUBLISH, _CLOUD_EVENT = Reader(Publish), Reader(CloudEvent)


def origin(source: str, now: float) -> dict[str, str]:
    """Return the default members of a cause: who publishes, and when.

    Args:
        source: the key's name.
        now: seconds since 1970.
    """
    received_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"source": source, "received_at": received_at}


def read_change(item: object, settings: GatewaySettings, by: Mapping[str, str]) -> Change:
    """Return the change described by a publish or a CloudEvent. An object with `specversion` is a CloudEvent.

    Args:
        item: the JSON value.
        settings: its limits apply to the state and to the private part.
        by: default members of the cause, from `origin`.

    Raises:
        Problem: the item is malformed or exceeds a limit: topic_invalid, topic_reserved, state_too_large,
            state_too_deep, number_unsafe or request_invalid.
    """
    is_event = isinstance(item, dict) and "specversion" in item
    publish = _from_cloud_event(item) if is_event else _PUBLISH.read(item)
    event_id, private, order = publish.get("event_id") or "", publish.get("private"), publish.get("order")
    return Change(
        topic=publishable(publish["topic"]),
        state=_encode("state", publish["state"], settings),
        private=b"" if private is None else _encode("private", private, settings),
        event_id=event_id,
        order="" if order is None else order_token(order) if isinstance(order, int) else order,
        if_version=publish.get("if_version"),
        cause=_completed(publish.get("cause") or {}, event_id, by),
    )


def _from_cloud_event(item: object) -> Publish:
    """Return the publish for a structured-mode event (CloudEvents 1.0, JSON format).

    `subject` is the topic and `data` the state. `source` and `id` together are the dedupe key (section 3.1.1). The
    optional extension `sequence` is the order. Other attributes are ignored, as the specification requires; null
    attributes count as absent.
    """
    assert isinstance(item, dict)
    content, has_data = item.get("datacontenttype"), "data" in item and item.get("data_base64") is None
    plain = content.partition(";")[0].strip().lower() if isinstance(content, str) else ""
    if not has_data or not (content is None or plain == "application/json" or plain.endswith("+json")):
        raise Problem("request_invalid", "the event must carry its state as JSON in data")
    event = _CLOUD_EVENT.read(item)
    return {
        "topic": event["subject"],
        "state": event["data"],
        "event_id": f"{event['source']} {event['id']}",
        "order": event.get("sequence"),
        "cause": {
            "source": event["source"],
            "event_id": event["id"],
            "event_type": event["type"],
            "occurred_at": event.get("time"),
        },
    }


def publishable(name: str) -> str:
    """Return `name` after checking that it is a topic open to publishing.

    Raises:
        Problem: topic_invalid; topic_reserved for what planwire writes itself.
    """
    try:
        topic = Topic.named(name)
    except TopicError as error:
        raise Problem("topic_invalid", str(error)) from None
    if topic.kind in UNPUBLISHED_KINDS:
        raise Problem("topic_reserved", f"nobody publishes topics of kind {topic.kind}: planwire writes them")
    return name


def _encode(part: document.Part, value: object, settings: GatewaySettings) -> bytes:
    try:
        return document.encode(part, value, settings.state_max_bytes, settings.state_max_depth)
    except document.DocumentError as error:
        raise Problem(error.code, error.detail) from None


def _completed(given: Mapping[str, Any], event_id: str, by: Mapping[str, str]) -> bytes:
    """Return the cause as JSON: the given members, completed by the event id, the arrival time and the source.

    If the caller gives a source, the key's name is added as `by`.
    """
    own = {name: value for name, value in given.items() if value is not None}
    cause = {"source": by["source"], **({"event_id": event_id} if event_id else {}), **by, **own}
    if "source" in own:
        cause["by"] = by["source"]
    return orjson.dumps(cause)
