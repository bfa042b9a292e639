"""The socket protocol as an AsyncAPI 3 document (docs/asyncapi.json), built from models of its frames.

It describes, nothing here is on the path of a frame; tests hold the models against what gateway/ws/protocol.py makes.

    python -m gateway.api_docs.asyncapi > docs/asyncapi.json
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from gateway.ws.protocol import CLIENT_MAX_CHARS, REASON_MAX_CHARS, SUBPROTOCOL, TIMEOUT_MAX_MS, VERSION_MAX

TopicName = Annotated[
    str,
    Field(
        pattern=r"^(?:[a-z][a-z0-9_-]{0,31}/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}$",
        description="[env/]kind:id; the live environment has no prefix.",
        examples=["tenant:acme", "sandbox/tenant:acme"],
    ),
]
Version = Annotated[int, Field(ge=0, le=VERSION_MAX, description="Microseconds since 1970; 0: none.")]
JsonObject = dict[str, Any]

# Clients ignore what they do not know, and so does the gateway: a frame may have more members.
_OPEN = ConfigDict(extra="allow")


class Hello(TypedDict):
    """The first frame: who, which topics, and which version of each is held."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["hello"]
    token: str
    topics: NotRequired[dict[TopicName, Version]]
    client: NotRequired[Annotated[str, Field(description=f"Cut to {CLIENT_MAX_CHARS} characters.")]]


class Subscribe(TypedDict):
    """One more topic; for a topic already held, a wish to be greeted anew."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["subscribe"]
    topic: TopicName
    version: NotRequired[Version]


class Unsubscribe(TypedDict):
    """No more of this topic."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["unsubscribe"]
    topic: TopicName


class Ack(TypedDict):
    """The listeners ran with this version."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["ack"]
    topic: TopicName
    version: Version


class Nack(TypedDict):
    """This version could not be used."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["nack"]
    topic: TopicName
    version: Version
    reason: NotRequired[Annotated[str, Field(description=f"Cut to {REASON_MAX_CHARS} characters.")]]


class Expect(TypedDict):
    """Something newer than `after` is awaited."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["expect"]
    topic: TopicName
    after: NotRequired[Version]
    timeout_ms: NotRequired[Annotated[int, Field(ge=1, le=TIMEOUT_MAX_MS)]]


class Token(TypedDict):
    """A fresh token for the same subject."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    type: Literal["token"]
    token: str


class Backoff(TypedDict):
    """The bounds of a client's back-off."""

    min_ms: int
    max_ms: int


class AckRule(TypedDict):
    """Which share of versions to ack, and within how long."""

    share: Annotated[float, Field(ge=0, le=1)]
    after_ms: Annotated[int, Field(ge=0)]


class Welcome(TypedDict):
    """The hello was accepted."""

    type: Literal["welcome"]
    session: str
    heartbeat_ms: int
    fresh: bool
    token_expires_at: Annotated[int, Field(description="Unix seconds.")]
    reconnect: Backoff
    ack: AckRule


class AckPolicy(TypedDict):
    """The rule for acks of one topic, from now on."""

    type: Literal["ack_policy"]
    topic: TopicName
    share: Annotated[float, Field(ge=0, le=1)]
    after_ms: Annotated[int, Field(ge=0)]


class Snapshot(TypedDict):
    """The newest state of a topic, whole."""

    type: Literal["snapshot"]
    topic: TopicName
    version: Version
    state: JsonObject | None
    reset: NotRequired[
        Annotated[Literal[True], Field(description="The store lost newer state: a lower version holds.")]
    ]
    cause: NotRequired[JsonObject]


class Patch(TypedDict):
    """The change from `base` to `version` as an RFC 7396 merge patch."""

    type: Literal["patch"]
    topic: TopicName
    base: Version
    version: Version
    patch: JsonObject
    cause: NotRequired[JsonObject]


class Current(TypedDict):
    """What is held is the newest."""

    type: Literal["current"]
    topic: TopicName
    version: Version


class Pending(TypedDict):
    """Nothing newer yet; it is being looked for."""

    type: Literal["pending"]
    topic: TopicName
    after: Version


class Expired(TypedDict):
    """Nothing newer came in time."""

    type: Literal["expired"]
    topic: TopicName
    after: Version


class Heartbeat(TypedDict):
    """Sign of life; `verified_at` is when the bus was last proved to deliver, `at` is now. Microseconds since 1970."""

    type: Literal["heartbeat"]
    at: int
    fresh: bool
    verified_at: int


class Gone(TypedDict):
    """The gateway has ended the subscription."""

    type: Literal["gone"]
    topic: TopicName
    reason: Literal["revoked", "expired", "erased"]


class Error(TypedDict):
    """Something was refused; `code` is stable."""

    type: Literal["error"]
    code: str
    message: str
    topic: NotRequired[TopicName]


class Bye(TypedDict):
    """This gateway is stopping: come back in random(0..reconnect_ms)."""

    type: Literal["bye"]
    reconnect_ms: Annotated[int, Field(ge=0)]


INBOUND: dict[str, Any] = {
    "hello": Hello,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "ack": Ack,
    "nack": Nack,
    "expect": Expect,
    "token": Token,
}
"""What browsers send."""

OUTBOUND: dict[str, Any] = {
    "welcome": Welcome,
    "ack_policy": AckPolicy,
    "snapshot": Snapshot,
    "patch": Patch,
    "current": Current,
    "pending": Pending,
    "expired": Expired,
    "heartbeat": Heartbeat,
    "gone": Gone,
    "error": Error,
    "bye": Bye,
}
"""What gateways send."""


def schema(model: Any) -> dict[str, Any]:
    """Return the JSON Schema of a frame, everything it refers to written out."""
    found = TypeAdapter(model).json_schema()
    definitions = found.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str):
                return inline(definitions[reference.rpartition("/")[2]])
            return {key: inline(inner) for key, inner in value.items()}
        return [inline(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = inline(found)
    return result


def document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document."""

    def messages(models: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {
                "name": name,
                "summary": (model.__doc__ or "").strip().splitlines()[0],
                "contentType": "application/json",
                "payload": schema(model),
            }
            for name, model in models.items()
        }

    def references(models: dict[str, Any]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/connect/messages/{name}"} for name in models]

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Planwire",
            "version": SUBPROTOCOL.rpartition(".")[2],
            "description": "Live plan and entitlement state. docs/protocol.md is normative; this page describes it.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "wss",
                "description": "Any gateway; ws on loopback.",
                "variables": {"host": {"default": "127.0.0.1:8000"}},
            }
        },
        "channels": {
            "connect": {
                "address": "/v1/connect",
                "description": f"One WebSocket, subprotocol {SUBPROTOCOL}, JSON text frames.",
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "headers": {
                            "type": "object",
                            "properties": {"Sec-WebSocket-Protocol": {"type": "string", "const": SUBPROTOCOL}},
                            "required": ["Sec-WebSocket-Protocol"],
                        },
                    }
                },
                "messages": messages(INBOUND) | messages(OUTBOUND),
            }
        },
        "operations": {
            "receive": {
                "action": "receive",
                "channel": {"$ref": "#/channels/connect"},
                "summary": "What the gateway takes.",
                "messages": references(INBOUND),
            },
            "send": {
                "action": "send",
                "channel": {"$ref": "#/channels/connect"},
                "summary": "What the gateway sends.",
                "messages": references(OUTBOUND),
            },
        },
    }


def encode() -> bytes:
    """Return the document as it is committed: indented, with a final line break."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(encode())
