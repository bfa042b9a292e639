"""Route declarations: an Operation decorates its handler; the route and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, TypeAdapter

from sync.http.endpoint import Handler, Scope
from sync.http.parameters import Parameter
from sync.http.problem import MEDIA_TYPE, STATUSES

H = TypeVar("H", bound=Callable[..., Any])

CODES: dict[str, JsonValue] = {"enum": [*sorted(STATUSES)]}

_Mode = Literal["validation", "serialization"]

REF = "#/components/schemas/{model}"


class ProblemDocument(BaseModel):
    """RFC 9457. `code` is stable; further members depend on it."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: str = Field(json_schema_extra=CODES)
    detail: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One successful answer.

    Attributes:
        kind: the type of its JSON, or a mapping: the schema itself; None for an answer without a body.
        headers: name -> (description, type in JSON Schema).
    """

    description: str
    kind: Any = None
    headers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    media_type: str = "application/json"


VERSION = {"Planwire-Version": ("The topic's version.", "integer")}
"""The header of answers that contain a topic's version."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        path: in Starlette's syntax.
        id: the operation's name for generated clients; unique.
        problems: the problem codes of its answers, besides `internal`, which every operation has.
        security: the accepted security schemes: one of them is enough; "" lets requests in without any.
        scope: the scope that the caller needs on the path's topic; None: the handler decides.
        is_batch: the method checks the caller's rights for each item, and counts each against the caller's rate.
        body: media type -> the type of the body, or a mapping: the schema itself.
    """

    method: str
    path: str
    id: str
    summary: str
    answers: Mapping[int, Answer]
    problems: Sequence[str] = ()
    security: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    is_body_required: bool = True
    scope: Scope | None = None
    is_batch: bool = False

    def __call__(self, handler: H) -> H:
        """Declare `handler`, a function or a method, as the operation's handler."""
        vars(handler)["operation"] = self
        return handler


def declared(holder: object) -> Iterator[tuple[Operation, Handler]]:
    """Yield each operation that a method of `holder` declares, in order, with the bound method."""
    for name, member in vars(type(holder)).items():
        if isinstance(operation := getattr(member, "operation", None), Operation):
            yield operation, getattr(holder, name)


def operations(kind: type) -> list[Operation]:
    """Return the operations that the methods of a class declare, in order."""
    found = [getattr(member, "operation", None) for member in vars(kind).values()]
    return [operation for operation in found if isinstance(operation, Operation)]


def document(operations: Iterable[Operation], info: Mapping[str, Any], security: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        operations: all operations of the API.
        info: title, version and the like.
        security: the security schemes, by the name that operations use.
    """
    found = list(operations)
    schemas = _Schemas(found)
    paths: dict[str, dict[str, Any]] = {}
    for operation in found:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas.definitions, "securitySchemes": security},
    }


class _Schemas:
    """The JSON Schemas of all request bodies (pydantic's mode `validation`) and answers (mode `serialization`)."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        kinds: list[tuple[Any, _Mode]] = [(ProblemDocument, "validation")]
        for operation in operations:
            kinds += [(kind, "validation") for kind in operation.body.values()]
            kinds += [(answer.kind, "serialization") for answer in operation.answers.values()]
        adapters = [(id(kind), mode, TypeAdapter[Any](kind)) for kind, mode in kinds if _is_type(kind)]
        self._of, schemas = TypeAdapter.json_schemas(adapters, ref_template=REF)
        self.definitions: dict[str, Any] = schemas["$defs"]

    def of(self, kind: Any, mode: _Mode) -> Mapping[str, Any]:
        """Return the schema of a type."""
        found: Mapping[str, Any] = self._of[id(kind), mode] if _is_type(kind) else kind
        return found


def _is_type(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, Mapping)


def _described(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.id, "summary": operation.summary}
    if operation.parameters:
        described["parameters"] = [parameter.document() for parameter in operation.parameters]
    if operation.body:
        content = {
            media_type: {"schema": schemas.of(kind, "validation")} for media_type, kind in operation.body.items()
        }
        described["requestBody"] = {"required": operation.is_body_required, "content": content}
    answers = {status: _answer(answer, schemas) for status, answer in operation.answers.items()}
    problems = sorted(_problems((*operation.problems, "internal")).items())
    described["responses"] = {str(status): answer for status, answer in (*answers.items(), *problems)}
    described["security"] = [{name: []} if name else {} for name in operation.security]
    return described


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.description}
    if answer.kind is not None:
        found["content"] = {answer.media_type: {"schema": schemas.of(answer.kind, "serialization")}}
    if answer.headers:
        found["headers"] = {
            name: {"description": description, "schema": {"type": kind}}
            for name, (description, kind) in answer.headers.items()
        }
    return found


def _problems(codes: Iterable[str]) -> dict[int, dict[str, Any]]:
    """Return one answer per HTTP status of the codes; each lists its codes."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUSES[code], []).append(code)
    answers: dict[int, dict[str, Any]] = {}
    for status, group in by_status.items():
        schema = {"allOf": [{"$ref": REF.format(model="ProblemDocument")}, {"properties": {"code": {"enum": group}}}]}
        answers[status] = {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(group)}",
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if status in (429, 503):
            answers[status]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answers
