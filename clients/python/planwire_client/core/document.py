"""A state, or its private part, as it comes from outside: the bounds it must keep, and its canonical JSON. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal

import orjson

from planwire_client.core.limits import SAFE_INTEGER_MAX, STATE_MAX_BYTES, STATE_MAX_DEPTH

Part = Literal["state", "private"]

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
"""What canonical JSON can write: the bound of a private part, which browsers are never sent."""

NESTING_MAX = 254
"""The deepest nesting that the encoder writes."""


@dataclasses.dataclass(eq=False, repr=False)
class DocumentError(ValueError):
    """The value cannot be published.

    Attributes:
        code: state_too_deep, number_unsafe, state_too_large or request_invalid; for both parts.
        detail: what is wrong and what to do, for people.
    """

    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def encode(part: Part, value: object, max_bytes: int = STATE_MAX_BYTES, max_depth: int = STATE_MAX_DEPTH) -> bytes:
    """Return `value` as canonical JSON: sorted keys, compact, UTF-8, no negative zero.

    Args:
        part: what `value` is; a private part may have any integer of 64 bits.
        value: JSON values, or what orjson writes as such.
        max_bytes: of the JSON.
        max_depth: how deep objects and arrays may be nested.

    Raises:
        DocumentError: it is no JSON, or beyond one of the bounds.
    """
    has_negative_zero = check(part, value, max_depth)
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise DocumentError("request_invalid", f"{part} is not JSON: {error}") from None
    if has_negative_zero:
        # Not every reader keeps the sign: JSON.stringify(-0) is 0.
        data = orjson.dumps(_without_negative_zero(orjson.loads(data)), option=orjson.OPT_SORT_KEYS)
    if len(data) > max_bytes:
        raise DocumentError("state_too_large", f"{part} has {len(data)} bytes; {max_bytes} are allowed")
    return data


def check(part: Part, value: object, max_depth: int = NESTING_MAX) -> bool:
    """Return whether a negative zero is in `value`, which keeps the bounds of numbers and of nesting.

    Raises:
        DocumentError: state_too_deep, or number_unsafe.
    """
    least, most = (-SAFE_INTEGER_MAX, SAFE_INTEGER_MAX) if part == "state" else (INTEGER_MIN, INTEGER_MAX)
    try:
        return _scan((value,), max_depth, least, most)
    except _TooDeep:
        raise DocumentError("state_too_deep", f"{part} may be nested {max_depth} deep") from None
    except _Unsafe as unsafe:
        (number,) = unsafe.args
        if isinstance(number, float):
            why = "is not finite, for which JSON has no form: leave it out, or send a string"
        elif part == "state":
            why = "is an integer beyond 2^53-1, which a browser reads as another number: send it as a string"
        else:
            why = "is an integer beyond 64 bits (-2^63 to 2^64-1): send it as a string"
        # The number itself is not told: reasons are logged.
        where = f"{part} at {_path_to(number, value, '')[:80]!r}"
        raise DocumentError("number_unsafe", f"{where} {why}") from None


class _TooDeep(Exception):
    """Nested deeper than allowed."""


class _Unsafe(Exception):
    """Its argument is a number that not every reader would read as what it is."""


def _scan(values: Iterable[Any], levels: int, least: int, most: int) -> bool:
    """Whether a negative zero is among the values or inside; `levels`: of nesting left. Every publish passes here."""
    found = False
    for value in values:
        kind = type(value)
        if kind is dict or kind is list:
            if not levels:
                raise _TooDeep
            found |= _scan(value.values() if kind is dict else value, levels - 1, least, most)
        elif kind is int:
            if not least <= value <= most:
                raise _Unsafe(value)
        elif kind is float:
            if not math.isfinite(value):
                raise _Unsafe(value)
            found |= not value and math.copysign(1, value) < 0
        elif kind is not str and kind is not bool and value is not None:
            found |= _scan_other(value, levels, least, most)
    return found


def _scan_other(value: object, levels: int, least: int, most: int) -> bool:
    """The same for what is not of JSON's own types but is written as such; the encoder refuses the rest."""
    if isinstance(value, Enum):
        return _scan((value.value,), levels, least, most)
    if isinstance(value, int):
        return _scan((int(value),), levels, least, most)
    inner: Iterable[object]
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    else:
        return False
    if not levels:
        raise _TooDeep
    return _scan(inner, levels - 1, least, most)


def _path_to(number: int | float, value: object, path: str) -> str:
    """Return the JSON Pointer (RFC 6901) to `number` in `value`; empty where it is not below."""
    members: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list | tuple):
        members = enumerate(value)
    for name, inner in members:
        at = f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}"
        found = at if inner is number else _path_to(number, inner, at)
        if found:
            return found
    return ""


def _without_negative_zero(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_negative_zero(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_negative_zero(inner) for inner in value]
    return 0.0 if isinstance(value, float) and value == 0 else value
