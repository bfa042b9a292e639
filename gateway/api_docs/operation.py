"""The parts that the OpenAPI document is put together from: an operation, its answers, its problems. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from sync.http.fields import RFC3339_PATTERN
from sync.http.problem import MEDIA_TYPE, STATUSES

TIME: dict[str, JsonValue] = {"format": "date-time", "pattern": f"^{RFC3339_PATTERN}$"}
TOPIC_PATTERN = r"^([a-z][a-z0-9_-]{0,31}/)?[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9._~@-]{1,128}$"
CODES: dict[str, JsonValue] = {"enum": [*sorted(STATUSES)]}


class Model(BaseModel):
    """What may have no members but those described."""

    model_config = ConfigDict(extra="forbid")


class ProblemDocument(BaseModel):
    """RFC 9457. `code` is stable; further members depend on it."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: str = Field(json_schema_extra=CODES)
    detail: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of a table: what is not in a model is said here."""

    method: str
    path: str
    id: str
    summary: str
    answers: dict[int, dict[str, Any]]
    problems: Sequence[str]
    security: str | None = None
    parameters: Sequence[dict[str, Any]] = ()
    body: dict[str, Any] | None = None
    is_body_required: bool = True


def ref(model: type[BaseModel]) -> dict[str, Any]:
    """Return the reference to a model's schema."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def any_of(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of one of several models."""
    return {"anyOf": [ref(model) for model in models]}


def json_answer(description: str, model: type[BaseModel], headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an answer with a model's JSON."""
    answer = {"description": description, "content": {"application/json": {"schema": ref(model)}}}
    return {**answer, "headers": headers} if headers else answer


def text_answer(description: str, media_type: str) -> dict[str, Any]:
    """Return an answer with text."""
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}


def object_answer(description: str) -> dict[str, Any]:
    """Return an answer with a JSON object that is described elsewhere."""
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}


def query_integer(name: str, description: str, maximum: int, *, minimum: int = 0, default: int = 0) -> dict[str, Any]:
    """Return a query parameter that is an integer."""
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum, "default": default}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def query_text(name: str, description: str, pattern: str) -> dict[str, Any]:
    """Return a query parameter that is text."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", "pattern": pattern}}


def path_text(name: str, description: str, pattern: str, example: str) -> dict[str, Any]:
    """Return a parameter in the path."""
    schema = {"type": "string", "pattern": pattern}
    return {
        "name": name, "in": "path", "required": True, "description": description, "schema": schema, "example": example,
    }  # fmt: skip


def header(name: str, description: str) -> dict[str, Any]:
    """Return a header parameter."""
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def describe(operation: Operation) -> dict[str, Any]:
    """Return the operation as OpenAPI says it."""
    described: dict[str, Any] = {"operationId": operation.id, "summary": operation.summary}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = {"required": operation.is_body_required, "content": operation.body}
    described["responses"] = {
        **{str(status): answer for status, answer in operation.answers.items()},
        **{str(status): answer for status, answer in sorted(_problems(operation).items())},
    }
    described["security"] = [{operation.security: []}] if operation.security else []
    return described


def _problems(operation: Operation) -> dict[int, dict[str, Any]]:
    """Return one answer for each status that the operation's problems have, naming their codes."""
    by_status: dict[int, list[str]] = {}
    for code in operation.problems:
        by_status.setdefault(STATUSES[code], []).append(code)
    answers: dict[int, dict[str, Any]] = {}
    for status, group in by_status.items():
        schema = {"allOf": [ref(ProblemDocument), {"properties": {"code": {"enum": group}}}]}
        answer: dict[str, Any] = {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(group)}",
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if status in (429, 503):
            answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        answers[status] = answer
    return answers
