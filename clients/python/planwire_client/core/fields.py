"""Rules for the fields of frames, and readers and writers made from the declarations of frames. Pure.

A frame is a NamedTuple whose fields are annotated with a `Rule`. A field with a default is optional for the sender.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

from planwire_client.core.limits import VERSION_MAX
from planwire_client.core.topic import EXPECTED, PATTERN, matched, not_a_topic

F = TypeVar("F")

ABSENT: Any = object()
"""Marks a field that the sender left out, or a field without a default."""


class FrameError(Exception):
    """The bytes are not a declared frame.

    Attributes:
        code: bad_json, bad_frame (a field is missing or of the wrong kind), bad_topic or unknown_type.
        message: the problem, for people.
        topic: the topic with the wrong version, if the frame has several.
    """

    def __init__(self, code: str, message: str, topic: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.topic = topic


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The rule for the values of a field.

    Attributes:
        check: takes the value sent and the field's name; returns the value to use, or raises FrameError.
        schema: the rule as JSON Schema.
        mark: the field's placeholder in a `template`.
    """

    check: Callable[[Any, str], Any]
    schema: Mapping[str, Any]
    mark: bytes = b"%b"


def _shown(value: object, chars: int) -> str:
    """Return text for an error. Only strings are shown; the repr of a deeply nested value would overflow the stack."""
    if isinstance(value, str):
        return repr(value[:chars])
    return "null" if value is None or value is ABSENT else f"a {type(value).__name__}"


def kind(wanted: type, says: str, json_type: str, mark: bytes = b"%b", **schema: object) -> Rule:
    """Return the rule for values of one type; `says`: its description in errors."""

    def check(value: object, name: str) -> object:
        if not isinstance(value, wanted):
            raise FrameError("bad_frame", f"{name} must be {says}")
        return value

    return Rule(check, {**schema, "type": json_type}, mark)


def _topic(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise FrameError("bad_topic", f"{_shown(value, 80)} is not a topic: {EXPECTED}")
    if matched(value) is None:
        raise FrameError("bad_topic", str(not_a_topic(value)))
    return value


def _version(value: object, name: str, topic: str | None = None) -> int:
    if type(value) is not int or not 0 <= value <= VERSION_MAX:
        raise FrameError("bad_frame", f"{name} must be an integer from 0 to 2^53-1", topic)
    return value


def _versions(value: object, name: str) -> dict[str, int]:
    if not isinstance(value, dict):
        raise FrameError("bad_frame", f"{name} must be an object of topic: version held")
    for topic, version in value.items():
        _topic(topic, name)
        _version(version, name, topic)
    return value


def _share(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise FrameError("bad_frame", f"{name} must be a number from 0 to 1")
    return value


def _json(value: object, name: str) -> object:
    if value is ABSENT:
        raise FrameError("bad_frame", f"{name} is missing")
    return value


_TEXT = kind(str, "a string", "string", b'"%b"')
_OBJECT = kind(dict, "an object", "object", additionalProperties=True)


def cut(max_chars: int) -> Rule:
    """Return the rule for a text that is cut to `max_chars` characters."""
    schema = {"type": "string", "description": f"Cut to {max_chars} characters."}
    return Rule(lambda value, name: _TEXT.check(value, name)[:max_chars], schema, _TEXT.mark)


def matching(pattern: str, says: str) -> Rule:
    """Return the rule for a text that matches a regular expression as a whole; `says`: its description in errors."""
    full = re.compile(pattern)

    def check(value: object, name: str) -> str:
        if not isinstance(value, str) or full.fullmatch(value) is None:
            raise FrameError("bad_frame", f"{name} must be {says}, not {_shown(value, 60)}")
        return value

    return Rule(check, {"pattern": f"^{pattern}$", "type": "string"}, _TEXT.mark)


def words(*known: str) -> Rule:
    """Return the rule for a text that is one of `known`; later gateways may send others."""
    return Rule(_TEXT.check, {"enum": [*known], "type": "string"}, _TEXT.mark)


def integer(least: int | None = None, most: int | None = None, description: str | None = None) -> Rule:
    """Return the rule for an integer from `least` to `most`, both included."""
    schema = {"type": "integer", "minimum": least, "maximum": most, "description": description}
    span = f" from {least}" * (least is not None) + f" to {most}" * (most is not None)

    def check(value: object, name: str) -> int:
        if type(value) is not int or (least is not None and value < least) or (most is not None and value > most):
            raise FrameError("bad_frame", f"{name} must be an integer{span}")
        return value

    return Rule(check, {name: value for name, value in schema.items() if value is not None}, b"%d")


_TOPIC_SAYS = {
    "description": "[env/]kind:id; the live environment has no prefix.",
    "examples": ["tenant:acme", "sandbox/tenant:acme"],
}
_VERSION = {"description": "Microseconds since 1970; 0: none.", "maximum": VERSION_MAX, "minimum": 0, "type": "integer"}
_PATTERN = f"^{PATTERN}$"

Text = Annotated[str, _TEXT]
TopicName = Annotated[str, Rule(_topic, {**_TOPIC_SAYS, "pattern": _PATTERN, "type": "string"}, _TEXT.mark)]
Version = Annotated[int, Rule(_version, _VERSION, b"%d")]
Versions = Annotated[
    Mapping[str, int],
    Rule(_versions, {"patternProperties": {_PATTERN: _VERSION}, "propertyNames": _TOPIC_SAYS, "type": "object"}),
]
Integer = Annotated[int, integer()]
Milliseconds = Annotated[int, integer(0)]
Flag = Annotated[bool, kind(bool, "true or false", "boolean")]
Share = Annotated[float, Rule(_share, {"maximum": 1, "minimum": 0, "type": "number"}, b"%a")]
JsonObject = Annotated[dict[str, Any], _OBJECT]
State = Annotated[Any, Rule(_json, {"anyOf": [_OBJECT.schema, {"type": "null"}]})]


class Field(NamedTuple):
    """One field of a declared frame. `default`: ABSENT if the field is required."""

    name: str
    rule: Rule
    default: Any


def fields_of(declared: type[Any]) -> list[Field]:
    """Return the fields of a frame, or of an object in a frame, in their order."""
    defaults = declared._field_defaults
    hints = get_type_hints(declared, include_extras=True)
    return [Field(name, _rule_of(hints[name]), defaults.get(name, ABSENT)) for name in declared._fields]


def _rule_of(hint: Any) -> Rule:
    if get_origin(hint) in (Union, UnionType):  # None is for an optional field
        hint = get_args(hint)[0]
    if get_origin(hint) is Annotated:
        return next(rule for rule in reversed(get_args(hint)) if isinstance(rule, Rule))
    make = _maker(hint)
    return Rule(lambda value, name: make(_OBJECT.check(value, name)), {"object": hint}, b"{%b}" % _marks(hint))


def _maker(declared: type[F]) -> Callable[[dict[str, Any]], F]:
    """Return the function that makes a `declared` from a JSON object."""
    fields = fields_of(declared)
    required = [(field.name, field.rule.check) for field in fields if field.default is ABSENT]
    optional = [(field.name, field.rule.check, field.default) for field in fields if field.default is not ABSENT]

    # Every inbound frame is made here, and `tuple.__new__` takes half the time of calling the class.
    new: Callable[[type[F], list[Any]], F] = tuple.__new__  # type: ignore[assignment]

    def make(value: dict[str, Any]) -> F:
        found = []
        for name, check in required:
            found.append(check(value.get(name, ABSENT), name))
        for name, check, default in optional:
            given = value.get(name, default)
            found.append(given if given is default else check(given, name))
        return new(declared, found)

    return make


def reader(types: Mapping[str, type[F]]) -> Callable[[bytes | str], F]:
    """Return the function that reads a frame of one of `types` from JSON. It ignores undeclared fields.

    It raises FrameError for anything else.
    """
    makers = {name: _maker(declared) for name, declared in types.items()}

    def read(data: bytes | str) -> F:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise FrameError("bad_json", "the frame is not JSON") from None
        if type(value) is not dict:
            raise FrameError("bad_frame", "the frame is not a JSON object")
        kind = value.get("type")
        make = makers.get(kind) if type(kind) is str else None
        if make is None:
            raise FrameError("unknown_type", f"no frame has the type {_shown(kind, 40)}")
        return make(value)

    return read


def writer(types: Mapping[str, type[F]]) -> Callable[[F], bytes]:
    """Return the function that writes a frame of one of `types` as JSON. It leaves out None and unset flags."""
    plans = {
        declared: (name, [field.name for field in fields_of(declared) if field.default in (None, False)])
        for name, declared in types.items()
    }

    def write(frame: Any) -> bytes:
        name, omissible = plans[type(frame)]
        members = {
            field: value
            for field, value in frame._asdict().items()
            if not (field in omissible and value in (None, False))
        }
        return orjson.dumps({"type": name, **members}, default=_members)

    return write


def _members(value: Any) -> dict[str, Any]:
    return dict(value._asdict() if hasattr(value, "_asdict") else value)


def template(name: str, declared: type[Any]) -> bytes:
    """Return a bytes format of the frame: one placeholder for each required field, and one for all optional fields.

    Filling it with encoded JSON takes a fifth of the time of `writer`.
    """
    return b'{"type":"%b",%b%b}' % (name.encode(), _marks(declared), b"%b" if declared._field_defaults else b"")


def _marks(declared: type[Any]) -> bytes:
    fields = [one for one in fields_of(declared) if one.default is ABSENT]
    return b",".join(b'"%b":%b' % (one.name.encode(), one.rule.mark) for one in fields)
