"""The HTTP API as an OpenAPI 3.1 document. `python -m gateway.openapi` prints it; docs/openapi.json is its output.

The models here only describe: requests are read by gateway/change.py and its like, and tests hold the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema, models_json_schema

from gateway.change import (
    ATTRIBUTE_MAX,
    CAUSE_TEXT_MAX,
    EVENT_ID_MAX,
    ORDER_INTEGER_MAX,
    ORDER_MAX,
    RFC3339_PATTERN,
    VERSION_MAX,
)
from gateway.claims import MESSAGES as TOKEN_CODES
from gateway.claims import TEXT_MAX
from gateway.problem import MEDIA_TYPE, STATUSES

API_VERSION = "1.0.0"
"""Of this API, not of the program: rises when a route changes."""

TOPIC_PATTERN = r"^([a-z][a-z0-9_-]{0,31}/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}$"

Topic = Field(pattern=TOPIC_PATTERN, examples=["tenant:acme", "sandbox/tenant:acme"])


JSON_TYPE_PATTERN = r"^(application/json|[a-z]+/[a-z0-9.]+[+]json)(;[ -~]*)?$"

_TIME: dict[str, JsonValue] = {"format": "date-time", "pattern": f"^{RFC3339_PATTERN}$"}
_CODES: dict[str, JsonValue] = {"enum": [*sorted(STATUSES)]}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cause(_Model):
    """Why a version was made. On publishing, absent members are completed: source with the key's name."""

    source: str | None = Field(None, min_length=1, max_length=CAUSE_TEXT_MAX)
    event_id: str | None = Field(None, min_length=1, max_length=EVENT_ID_MAX)
    event_type: str | None = Field(None, min_length=1, max_length=CAUSE_TEXT_MAX)
    occurred_at: str | None = Field(None, description="RFC 3339", json_schema_extra=_TIME)
    received_at: str | None = Field(None, description="RFC 3339", json_schema_extra=_TIME)


class State(_Model):
    """A topic's newest committed version. Without state: version 0 and state null."""

    topic: str = Topic
    version: int = Field(ge=0, le=VERSION_MAX, description="Microseconds since 1970; strictly rises per topic.")
    state: JsonValue
    private: JsonValue = Field(None, description="The backend-only part; only for tokens with scope private.")
    cause: Cause | None = None


_Order = Annotated[int, Field(ge=0, le=ORDER_INTEGER_MAX)] | Annotated[str, Field(min_length=1, max_length=ORDER_MAX)]


class Publish(_Model):
    """A topic's whole new state, and under which conditions it counts."""

    topic: str = Topic
    state: JsonValue = Field(description="Any JSON value; the whole public state. At most 32 KiB as compact JSON.")
    private: JsonValue = Field(None, description="The backend-only part; replaced whole, too. At most 32 KiB.")
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
    time: str | None = Field(None, description="RFC 3339; becomes cause.occurred_at.", json_schema_extra=_TIME)
    sequence: _Order | None = Field(None, description="Becomes the order.")
    datacontenttype: str | None = Field(None, examples=["application/json"], pattern=JSON_TYPE_PATTERN)
    data: JsonValue = Field(description="The whole new state.")


class Committed(_Model):
    """What became of a publish, and the topic's version after it (0: still none)."""

    topic: str
    verdict: Literal["applied", "unchanged", "duplicate", "stale"]
    version: int = Field(ge=0, le=VERSION_MAX)


class BatchResult(_Model):
    """What became of one item. `error`: it was refused, or the store did not answer for it (code, detail)."""

    topic: str | None = None
    verdict: Literal["applied", "unchanged", "duplicate", "stale", "conflict", "error"]
    version: int | None = Field(None, ge=0, le=VERSION_MAX)
    code: str | None = Field(None, json_schema_extra=_CODES)
    detail: str | None = None


class Batch(_Model):
    """Publishes or CloudEvents, committed in this order, each for itself."""

    items: list[Publish | CloudEvent] = Field(max_length=500)


class BatchResults(_Model):
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


class Revoke(_Model):
    """What no longer counts if issued before now: a subject, a topic, a token id, or a subject's right to a topic."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_REVOKE_SHAPES)

    sub: str | SkipJsonSchema[None] = Field(None, min_length=1, max_length=TEXT_MAX)
    topic: str | SkipJsonSchema[None] = Field(None, json_schema_extra={"pattern": TOPIC_PATTERN})
    jti: str | SkipJsonSchema[None] = Field(None, min_length=1, max_length=TEXT_MAX)


class Revoked(_Model):
    """The revocation that is now in force."""

    revoked: Revoke
    at: float = Field(description="Seconds since 1970; tokens issued at or before it are refused.")


class Alive(_Model):
    """The process serves."""

    status: Literal["alive"]


class Ready(_Model):
    """The process serves, hears the bus, reaches the store and has its keys."""

    status: Literal["ready"]
    checks: dict[str, bool]


class ProblemDocument(BaseModel):
    """RFC 9457. `code` is stable; further members depend on it."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: str = Field(json_schema_extra=_CODES)
    detail: str


_MODELS: tuple[type[BaseModel], ...] = (
    Alive, Batch, BatchResults, CloudEvent, Committed, ProblemDocument, Publish, Ready, Revoke, Revoked, State,
)  # fmt: skip

_TOKEN: tuple[str, ...] = (*TOKEN_CODES, "topic_forbidden", "topic_invalid")
_BODY: tuple[str, ...] = (
    "key_missing", "key_invalid", "json_invalid", "disconnected", "body_timeout", "body_too_large",
    "content_type_unsupported", "request_invalid", "rate_limited", "store_unavailable", "internal",
)  # fmt: skip
_PUBLISH: tuple[str, ...] = ("topic_invalid", "topic_reserved", "state_too_large", "state_too_deep")

_VERSION_HEADER = {"description": "The topic's version.", "schema": {"type": "integer"}}
_ETAG = {"description": "Stands for this version in this form.", "schema": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class _Operation:
    """One row of the table: what is not in a model is said here."""

    method: str
    path: str
    id: str
    summary: str
    answers: dict[int, dict[str, Any]]
    problems: Sequence[str]
    security: str | None = None
    parameters: Sequence[dict[str, Any]] = ()
    body: dict[str, Any] | None = None


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _json(description: str, model: type[BaseModel], headers: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = {"description": description, "content": {"application/json": {"schema": _ref(model)}}}
    return {**answer, "headers": headers} if headers else answer


def _text(description: str, media_type: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}


def _any_of(*models: type[BaseModel]) -> dict[str, Any]:
    return {"anyOf": [_ref(model) for model in models]}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "maxItems": 500, "items": items}


_TOPIC_PARAMETER = {
    "name": "topic",
    "in": "path",
    "required": True,
    "description": "A topic's name. The slash after an environment stands for itself.",
    "schema": {"type": "string", "pattern": TOPIC_PATTERN},
    "example": "tenant:acme",
}


def _query(name: str, description: str, maximum: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0, "maximum": maximum, "default": 0}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


_OPERATIONS: tuple[_Operation, ...] = (
    _Operation(
        "get", "/v1/state/{topic}", "readState", "A topic's state, at once or once it is new enough.",
        {
            200: _json("The newest version.", State, {"ETag": _ETAG, "Planwire-Version": _VERSION_HEADER}),
            304: {"description": "What If-None-Match names is the newest.", "headers": {"ETag": _ETAG}},
        },
        (*_TOKEN, "request_invalid", "too_many_streams", "store_unavailable", "internal", "behind"),
        "token",
        (
            _TOPIC_PARAMETER,
            _query("min_version", "Least version wanted; 504 behind where it is not there.", VERSION_MAX),
            _query("wait_ms", "How long to wait for it; cut to 30 s.", VERSION_MAX),
            _header("If-None-Match", "An ETag held."),
        ),
    ),
    _Operation(
        "get", "/v1/state/{topic}/events", "readEvents",
        "The same as server-sent events: snapshot (id: the version), current, heartbeat, gone, bye;"
        " the data are the frames of planwire.v1.",
        {200: _text("The stream; it ends with the token.", "text/event-stream")},
        (*_TOKEN, "too_many_streams", "store_unavailable", "internal"),
        "token",
        (_TOPIC_PARAMETER, _header("Last-Event-ID", "The version held; ignored unless an integer.")),
    ),
    _Operation(
        "post", "/v1/publish", "publish", "Publish a topic's whole new state.",
        {200: _json("What became of it.", Committed, {"Planwire-Version": _VERSION_HEADER})},
        (*_BODY, *_PUBLISH, "conflict"),
        "publishKey",
        body={
            "application/json": {"schema": _any_of(Publish, CloudEvent)},
            "application/cloudevents+json": {"schema": _ref(CloudEvent)},
        },
    ),
    _Operation(
        "post", "/v1/publish/batch", "publishBatch", "Publish up to 500 states; the body may have 4 MiB.",
        {200: _json("A verdict for each.", BatchResults)},
        (*_BODY, "batch_too_large"),
        "publishKey",
        body={
            "application/json": {
                "schema": {"anyOf": [_ref(Batch), _array(_any_of(Publish, CloudEvent))]},
            },
            "application/cloudevents-batch+json": {"schema": _array(_ref(CloudEvent))},
        },
    ),
    _Operation(
        "post", "/v1/sessions/revoke", "revoke",
        "Stop tokens issued before now: send one of sub, topic, jti, or sub and topic together.",
        {200: _json("In force everywhere within a second.", Revoked)},
        (*_BODY, "topic_invalid", "topic_reserved"),
        "publishKey",
        body={"application/json": {"schema": _ref(Revoke)}},
    ),
    _Operation(
        "get", "/healthz", "health", "Whether the process is alive.",
        {200: _json("It is.", Alive)}, ("internal",),
    ),
    _Operation(
        "get", "/readyz", "readiness", "Whether the bus is verified, the store reachable and no drain under way.",
        {200: _json("All of that.", Ready)}, ("internal", "not_ready"),
    ),
    _Operation(
        "get", "/metrics", "metrics", "Prometheus metrics of this process.",
        {200: _text("The text format.", "text/plain")}, ("internal",),
    ),
    _Operation(
        "get", "/v1/openapi.json", "description", "This document.",
        {200: {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}},
        ("internal",),
    ),
)  # fmt: skip


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the gateway's own routes."""
    _, schemas = models_json_schema(
        [(model, "serialization" if model in (State, BatchResult) else "validation") for model in _MODELS],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
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
                "publishKey": {"type": "http", "scheme": "bearer", "description": "A publish key."},
            },
        },
    }


def _describe(operation: _Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.id, "summary": operation.summary}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": operation.body}
    described["responses"] = {
        **{str(status): answer for status, answer in operation.answers.items()},
        **{str(status): answer for status, answer in sorted(_problems(operation.problems).items())},
    }
    described["security"] = [{operation.security: []}] if operation.security else []
    return described


def _problems(codes: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return one answer for each status that `codes` have, naming those codes."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUSES[code], []).append(code)
    answers: dict[int, dict[str, Any]] = {}
    for status, group in by_status.items():
        schema = {"allOf": [_ref(ProblemDocument), {"properties": {"code": {"enum": group}}}]}
        answer: dict[str, Any] = {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(group)}",
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if status in (429, 503):
            answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        answers[status] = answer
    return answers


def encode() -> bytes:
    """Return the document as it is committed: indented, with a final line break."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(encode())
