"""The HTTP API as an OpenAPI 3.1 document: `python -m gateway.api_docs.openapi` writes docs/openapi.json.

The models only describe: `gateway.api.publish_request` and its like read requests, and tests compare the two.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema, models_json_schema

from gateway.api.publish_request import ATTRIBUTE_MAX, CAUSE_TEXT_MAX
from gateway.api_docs import openapi_intake
from gateway.api_docs.operation import (
    CODES,
    TIME,
    TOPIC_PATTERN,
    Model,
    Operation,
    ProblemDocument,
    any_of,
    describe,
    header,
    json_answer,
    object_answer,
    query_integer,
    ref,
    text_answer,
)
from gateway.auth.claims import MESSAGES as TOKEN_CODES
from gateway.auth.claims import TEXT_MAX
from planwire_client.core.limits import EVENT_ID_MAX, ORDER_INTEGER_MAX, ORDER_MAX, VERSION_MAX

API_VERSION = "1.0.0"
"""Of this API, not of the program: rises when a route changes."""

Topic = Field(pattern=TOPIC_PATTERN, examples=["tenant:acme", "sandbox/tenant:acme"])


JSON_TYPE_PATTERN = r"^(application/json|[a-z]+/[a-z0-9.]+[+]json)(;[ -~]*)?$"


class Cause(Model):
    """Why a version was made. On publishing, absent members are completed: source with the key's name."""

    source: str | None = Field(None, min_length=1, max_length=CAUSE_TEXT_MAX)
    event_id: str | None = Field(None, min_length=1, max_length=EVENT_ID_MAX)
    event_type: str | None = Field(None, min_length=1, max_length=CAUSE_TEXT_MAX)
    occurred_at: str | None = Field(None, description="RFC 3339", json_schema_extra=TIME)
    received_at: str | None = Field(None, description="RFC 3339", json_schema_extra=TIME)


class WrittenCause(Cause):
    """Why a version was made; what else is known of it depends on who made it."""

    model_config = ConfigDict(extra="allow")


class State(Model):
    """A topic's newest committed version. Without state: version 0 and state null."""

    topic: str = Topic
    version: int = Field(ge=0, le=VERSION_MAX, description="Microseconds since 1970; strictly rises per topic.")
    state: JsonValue
    private: JsonValue = Field(None, description="The backend-only part; only for tokens with scope private.")
    cause: WrittenCause | None = None


_Order = Annotated[int, Field(ge=0, le=ORDER_INTEGER_MAX)] | Annotated[str, Field(min_length=1, max_length=ORDER_MAX)]


class Publish(Model):
    """A topic's whole new state, and under which conditions it counts."""

    topic: str = Topic
    state: JsonValue = Field(
        description="Any JSON value; the whole public state. At most 32 KiB as compact JSON. Integers beyond 2^53-1,"
        " which a browser reads as other numbers, are refused (number_unsafe): send them as strings."
    )
    private: JsonValue = Field(
        None, description="The backend-only part; replaced whole, too. At most 32 KiB; integers of 64 bits."
    )
    event_id: str | None = Field(
        None, min_length=1, max_length=EVENT_ID_MAX, description="Dedupe key, remembered for seven days."
    )
    order: _Order | None = Field(
        None,
        description="Refused as stale unless above the last one. Integers from 0, or strings compared bytewise"
        f" (at most {ORDER_MAX} characters); keep to one kind per topic.",
    )
    if_version: int | None = Field(
        None, ge=0, le=VERSION_MAX, description="Refused as conflict unless this is the stored version; 0: none yet."
    )
    cause: Cause | None = None


class CloudEvent(BaseModel):
    """A CloudEvents 1.0 event in structured JSON mode. source and id together are the dedupe key."""

    specversion: Literal["1.0"]
    id: str = Field(min_length=1, max_length=ATTRIBUTE_MAX)
    source: str = Field(min_length=1, max_length=ATTRIBUTE_MAX)
    type: str = Field(min_length=1, max_length=ATTRIBUTE_MAX)
    subject: str = Field(pattern=TOPIC_PATTERN, description="The topic.")
    time: str | None = Field(None, description="RFC 3339; becomes cause.occurred_at.", json_schema_extra=TIME)
    sequence: _Order | None = Field(None, description="Becomes the order.")
    datacontenttype: str | None = Field(None, examples=["application/json"], pattern=JSON_TYPE_PATTERN)
    data: JsonValue = Field(description="The whole new state; as in a publish.")


class Committed(Model):
    """What became of a publish, and the topic's version after it (0: still none)."""

    topic: str
    verdict: Literal["applied", "unchanged", "duplicate", "stale"]
    version: int = Field(ge=0, le=VERSION_MAX)


class BatchResult(Model):
    """What became of one item. `error`: it was refused, or the store did not answer for it (code, detail)."""

    topic: str | None = None
    verdict: Literal["applied", "unchanged", "duplicate", "stale", "conflict", "error"]
    version: int | None = Field(None, ge=0, le=VERSION_MAX)
    code: str | None = Field(None, json_schema_extra=CODES)
    detail: str | None = None


class Batch(Model):
    """Publishes or CloudEvents, committed in this order, each for itself."""

    items: list[Publish | CloudEvent] = Field(max_length=500)


class BatchResults(Model):
    """One result for each item, in order."""

    results: list[BatchResult]


_REVOKE_SHAPES: dict[str, JsonValue] = {
    "oneOf": [
        {"required": ["sub"], "maxProperties": 1},
        {"required": ["topic"], "maxProperties": 1},
        {"required": ["jti"], "maxProperties": 1},
        {"required": ["sub", "topic"], "maxProperties": 2},
    ]
}


class Revoke(Model):
    """What no longer counts if issued before now: a subject, a topic, a token id, or a subject's right to a topic."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_REVOKE_SHAPES)

    sub: str | SkipJsonSchema[None] = Field(None, min_length=1, max_length=TEXT_MAX)
    topic: str | SkipJsonSchema[None] = Field(None, json_schema_extra={"pattern": TOPIC_PATTERN})
    jti: str | SkipJsonSchema[None] = Field(None, min_length=1, max_length=TEXT_MAX)


class Revoked(Model):
    """The revocation that is now in force."""

    revoked: Revoke
    at: float = Field(description="Seconds since 1970; tokens issued at or before it are refused.")


class Alive(Model):
    """The process serves."""

    status: Literal["alive"]


class Ready(Model):
    """The process serves, hears the bus, reaches a store that is fit for use, and has its keys."""

    status: Literal["ready"]
    checks: dict[str, bool]


_MODELS: tuple[type[BaseModel], ...] = (
    Alive, Batch, BatchResults, CloudEvent, Committed, ProblemDocument, Publish, Ready, Revoke, Revoked,
)  # fmt: skip

_ANSWERS: tuple[type[BaseModel], ...] = (State, BatchResult, *openapi_intake.MODELS)
"""Described as they are written, not as they are read: nobody sends them."""

_TOKEN: tuple[str, ...] = (*TOKEN_CODES, "topic_forbidden", "topic_invalid")
_BODY: tuple[str, ...] = (
    "key_missing", "key_invalid", "scope_missing", "json_invalid", "disconnected", "body_timeout", "body_too_large",
    "content_type_unsupported", "content_encoding_unsupported", "charset_unsupported", "request_invalid",
    "rate_limited", "store_unavailable", "internal",
)  # fmt: skip
# A line break cannot be part of a path: such a topic finds no route.
_READ: tuple[str, ...] = (
    *_TOKEN, "disconnected", "not_found", "rate_limited", "too_many_streams", "store_unavailable", "internal",
)  # fmt: skip
_PUBLISH: tuple[str, ...] = ("topic_invalid", "topic_reserved", "state_too_large", "state_too_deep", "number_unsafe")


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "maxItems": 500, "items": items}


_VERSION_HEADER = {"description": "The topic's version.", "schema": {"type": "integer"}}
_ETAG = {"description": "Stands for this version in this form.", "schema": {"type": "string"}}


_TOPIC_PARAMETER = {
    "name": "topic",
    "in": "path",
    "required": True,
    "description": "A topic's name. The slash after an environment stands for itself.",
    "schema": {"type": "string", "pattern": TOPIC_PATTERN},
    "example": "tenant:acme",
}


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get", "/v1/state/{topic}", "readState", "A topic's state, at once or once it is new enough.",
        {
            200: json_answer("The newest version.", State, {"ETag": _ETAG, "Planwire-Version": _VERSION_HEADER}),
            304: {"description": "What If-None-Match names is the newest.", "headers": {"ETag": _ETAG}},
        },
        (*_READ, "request_invalid", "behind"),
        "token",
        (
            _TOPIC_PARAMETER,
            query_integer("min_version", "Least version wanted; 504 behind where it is not there.", VERSION_MAX),
            query_integer("wait_ms", "How long to wait for it, or for the source; cut to 30 s.", VERSION_MAX),
            header("If-None-Match", "An ETag held."),
        ),
    ),
    Operation(
        "get", "/v1/state/{topic}/events", "readEvents",
        "The same as server-sent events: snapshot (id: the version), current, heartbeat, gone, bye;"
        " the data are the frames of planwire.v1.",
        {200: text_answer("The stream; it ends with the token.", "text/event-stream")},
        _READ,
        "token",
        (_TOPIC_PARAMETER, header("Last-Event-ID", "The version held; ignored unless an integer.")),
    ),
    Operation(
        "post", "/v1/publish", "publish", "Publish a topic's whole new state.",
        {200: json_answer("What became of it.", Committed, {"Planwire-Version": _VERSION_HEADER})},
        (*_BODY, *_PUBLISH, "topic_forbidden", "conflict", "topic_is_billed"),
        "publishKey",
        body={
            "application/json": {"schema": any_of(Publish, CloudEvent)},
            "application/cloudevents+json": {"schema": ref(CloudEvent)},
        },
    ),
    Operation(
        "post", "/v1/publish/batch", "publishBatch", "Publish up to 500 states; the body may have 4 MiB.",
        {200: json_answer("A verdict for each.", BatchResults)},
        (*_BODY, "batch_too_large"),
        "publishKey",
        body={
            "application/json": {
                "schema": {"anyOf": [ref(Batch), _array(any_of(Publish, CloudEvent))]},
            },
            "application/cloudevents-batch+json": {"schema": _array(ref(CloudEvent))},
        },
    ),
    Operation(
        "post", "/v1/sessions/revoke", "revoke",
        "Stop tokens issued before now: send one of sub, topic, jti, or sub and topic together.",
        {200: json_answer("In force everywhere within a second.", Revoked)},
        (*_BODY, "topic_invalid", "topic_reserved", "topic_forbidden"),
        "publishKey",
        body={"application/json": {"schema": ref(Revoke)}},
    ),
    Operation(
        "get", "/v1/connect", "connect",
        "Open a WebSocket, subprotocol planwire.v1 (/v1/asyncapi.json describes it); anything but an opening handshake"
        " is refused.",
        {101: {"description": "The WebSocket is open."}}, ("internal", "upgrade_required"),
    ),
    Operation(
        "get", "/healthz", "health", "Whether the process is alive.",
        {200: json_answer("It is.", Alive)}, ("internal",),
    ),
    Operation(
        "get", "/readyz", "readiness", "Whether the bus is verified, the store fit for use, and no drain under way.",
        {200: json_answer("All of that.", Ready)}, ("internal", "not_ready"),
    ),
    Operation(
        "get", "/metrics", "metrics",
        "Prometheus metrics of this process; with PLANWIRE_METRICS_TOKEN, without it for private addresses alone.",
        {200: text_answer("The text format.", "text/plain")},
        ("key_missing", "key_invalid", "metrics_closed", "internal"),
        "metricsToken",
    ),
    Operation(
        "get", "/v1/openapi.json", "description", "This document.",
        {200: object_answer("OpenAPI 3.1.")}, ("internal", "rate_limited"),
    ),
    Operation(
        "get", "/v1/asyncapi.json", "socketDescription", "The description of the sockets' protocol.",
        {200: object_answer("AsyncAPI 3.0.")}, ("internal", "rate_limited"),
    ),
)  # fmt: skip


def document() -> dict[str, Any]:
    """Return the OpenAPI document: the gateway's own routes, and those that the intake brings along."""
    read: tuple[type[BaseModel], ...] = (*_MODELS, *openapi_intake.READ_MODELS)
    _, schemas = models_json_schema(
        [(model, "validation") for model in read] + [(model, "serialization") for model in _ANSWERS],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in (*OPERATIONS, *openapi_intake.OPERATIONS):
        paths.setdefault(operation.path, {})[operation.method] = describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Planwire",
            "version": API_VERSION,
            "summary": "Live plan and entitlement state.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "publishKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A publish key; its rights say what it opens.",
                },
                "metricsToken": {"type": "http", "scheme": "bearer", "description": "PLANWIRE_METRICS_TOKEN."},
                **openapi_intake.SIGNATURE,
            },
        },
    }


def encode() -> bytes:
    """Return the document as it is committed: indented, with a final line break."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(encode())
