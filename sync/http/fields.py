"""The fields of JSON bodies. One declaration as a type gives the check, the JSON Schema and the error texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import ErrorDetails, core_schema

from planwire_client.core.limits import VERSION_MAX
from planwire_client.core.topic import PATTERN, READABLE_PATTERN
from sync.core import instants
from sync.http.body import BODY_MAX_BYTES
from sync.http.problem import Problem

T = TypeVar("T")

TEXT_MAX_CHARS = 500

RFC3339_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
TIME: dict[str, Any] = {"format": "date-time", "pattern": f"^{RFC3339_PATTERN}$"}
"""The JSON Schema of an RFC 3339 time, without `type`."""

TOPIC_PATTERN = f"^{PATTERN}$"

READABLE_TOPIC_PATTERN = f"^{READABLE_PATTERN}$"

TOPIC_IN_PATH = (
    "A topic, its id decoded: `tenant:auth0|5f1c`. Percent-encoded once it may be put into the URL as it is written"
    " everywhere else: `tenant:auth0%7C5f1c`. The slash after an environment stands for itself."
)


def _existing(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Time = Annotated[
    str, Field(pattern=TIME["pattern"], json_schema_extra={"format": "date-time"}), AfterValidator(_existing)
]
"""An RFC 3339 time as text. Its date and time of day must exist."""

INSTANT: dict[str, Any] = {
    "type": "string",
    "format": "date-time",
    "pattern": f"^(?=19[7-9]|2[01]|22[0-5]){RFC3339_PATTERN}$",
}
"""The JSON Schema of an RFC 3339 time between 1970 and 2261."""

Instant = Annotated[int, BeforeValidator(instants.parse), WithJsonSchema(INSTANT)]
"""An RFC 3339 time between 1970 and 2261, as nanoseconds since 1970."""

Text = Annotated[str, Field(min_length=1, max_length=TEXT_MAX_CHARS, pattern=r"\S")]
"""A string that is not blank."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Last in `Annotated[int, ...]`: an integer as JSON Schema means it, since some clients write 3.0."""

Version = Annotated[int, Field(ge=0, le=VERSION_MAX)]
"""A topic's version; 0 if it has none yet."""


class OneOf:
    """A type for `Annotated[str, OneOf(...)]`: one of a collection of strings."""

    def __init__(self, choices: Collection[str]) -> None:
        self._choices = sorted(choices)

    def __get_pydantic_core_schema__(self, _: object, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.literal_schema(self._choices)


UNREAD = WrapValidator(lambda value, _: value)
"""For `Annotated[kind, UNREAD]`: any JSON value, documented as `kind`, which its reader checks."""


class Model(BaseModel):
    """An object; unknown members are an error. `max_bytes`: of a body that is one."""

    max_bytes: ClassVar[int] = BODY_MAX_BYTES
    model_config = ConfigDict(extra="forbid")


class Reader(Generic[T]):
    """Reads values of one type. For an invalid value it raises a Problem with the field and its expected form."""

    def __init__(self, kind: type[T]) -> None:
        self._adapter = TypeAdapter(kind)
        self._validate = self._adapter.validator.validate_python

    def read(self, value: object) -> T:
        """Return the value.

        Raises:
            Problem: 422 request_invalid.
        """
        try:
            found: T = self._validate(value, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Problem("request_invalid", self._sentence(first)) from None
        return found

    @cached_property
    def _schema(self) -> dict[str, Any]:
        return self._adapter.json_schema()

    def _sentence(self, error: ErrorDetails) -> str:
        path, schema = self._find(error["loc"])
        parent, _, name = path.rpartition(".")
        match error["type"]:
            case "missing":
                return f"{path} is missing"
            case "extra_forbidden":
                _, around = self._find(error["loc"][:-1])
                shown = f"{parent}.{name[:64]}" if parent else name[:64]
                return f"{shown} is not known here: expected {', '.join(sorted(around['properties']))}"
            case "value_error":
                message = error["msg"].removeprefix("Value error, ")
                return f"{path}: {message}" if path else message
            case _:
                return f"{path or 'the body'} must be {self._expected(schema)}"

    def _find(self, location: Sequence[int | str]) -> tuple[str, Mapping[str, Any]]:
        """Return the path to a member, and its schema. Steps of `location` that name a union's branch are skipped."""
        path, schema = "", self._resolved(self._schema)
        for step in location:
            inner: Mapping[str, Any] | None = None
            if isinstance(step, int):
                inner = schema.get("items")
            elif "properties" in schema:
                inner = schema["properties"].get(step, {})
            if inner is not None:
                path, schema = f"{path}.{step}" if path else str(step), self._resolved(inner)
        return path, schema

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the schema with its reference resolved, and without an alternative `null`."""
        if "$ref" in schema:
            return self._resolved(self._schema["$defs"][schema["$ref"].rpartition("/")[2]])
        others = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
        return self._resolved(others[0]) if len(others) == 1 else schema

    def _expected(self, schema: Mapping[str, Any]) -> str:
        """Return the form that `schema` describes, in words."""
        match schema:
            case {"const": value}:
                return str(value)
            case {"enum": values}:
                return f"one of {', '.join(map(str, values))}"
            case {"anyOf": branches}:
                return ", or ".join(self._expected(one) for one in branches if one.get("type") != "null")
            case {"type": "boolean"}:
                return "true or false"
            case {"type": "integer", "minimum": least, "maximum": most}:
                return f"an integer from {least} to {most}"
            case {"type": "number", "minimum": least, "maximum": most}:
                return f"a number from {least:g} to {most:g}"
            case {"type": "string", "format": "date-time"}:
                return "an RFC 3339 time"
            case {"type": "string", "minLength": least, "maxLength": most, "pattern": r"\S"}:
                return f"a string of {least} to {most} characters that is not blank"
            case {"type": "string", "minLength": least, "maxLength": most}:
                return f"a string of {least} to {most} characters"
            case {"type": "array", "maxItems": most}:
                return f"a list of {schema.get('minItems', 0)} to {most}"
            case {"type": "object", "properties": members}:
                return f"an object of {', '.join(members)}"
            case _:
                return {"string": "a string", "array": "a list", "object": "an object"}.get(
                    str(schema.get("type")), "something else"
                )
