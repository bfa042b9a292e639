"""Checks a state or a private part from outside against its limits, and encodes it as canonical JSON. Pure."""

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
"""Bounds of integers in canonical JSON. They apply to a private part, which is never sent to browsers."""

NESTING_MAX = 254
"""Maximum nesting of the encoder."""


@dataclasses.dataclass(eq=False, repr=False)
class DocumentError(ValueError):
    """The value cannot be published.

    Attributes:
        code: state_too_deep, number_unsafe, state_too_large or request_invalid; the same for both parts.
        detail: the problem and what to do, for people.
    """

    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def encode(part: Part, value: object, max_bytes: int = STATE_MAX_BYTES, max_depth: int = STATE_MAX_DEPTH) -> bytes:
    """Return `value` as canonical JSON: sorted keys, compact, UTF-8, no negative zero.

    Args:
        part: the kind of `value`; a private part may have any integer of 64 bits.
        value: JSON values, or values that orjson can encode.
        max_bytes: maximum size of the JSON.
        max_depth: maximum nesting of objects and arrays.

    Raises:
        DocumentError: it is not JSON, or exceeds a limit.
    """
    has_negative_zero = check(part, value, max_depth)
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise DocumentError("request_invalid", f"{part} is not JSON: {error}") from None
    if has_negative_zero:
        # Some readers drop the sign: JSON.stringify(-0) is 0.
        data = orjson.dumps(_without_negative_zero(orjson.loads(data)), option=orjson.OPT_SORT_KEYS)
    if len(data) > max_bytes:
        raise DocumentError("state_too_large", f"{part} has {len(data)} bytes; {max_bytes} are allowed")
    return data


def check(part: Part, value: object, max_depth: int = NESTING_MAX) -> bool:
    """Check the numbers and the nesting of `value`; return whether it contains a negative zero.

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
        # The number itself is left out, because reasons are logged.
        where = f"{part} at {_path_to(number, value, '')[:80]!r}"
        raise DocumentError("number_unsafe", f"{where} {why}") from None


class _TooDeep(Exception):
    """Nested deeper than allowed."""


class _Unsafe(Exception):
    """Its argument is a number that some readers cannot represent."""


def _scan(values: Iterable[Any], levels: int, least: int, most: int) -> bool:
    """Return whether the values contain a negative zero. `levels`: nesting left. Every publish runs this."""
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
    """Do the same for a value of a type that the encoder converts to JSON; the encoder rejects all other types."""
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
    """Return the JSON Pointer (RFC 6901) to `number` in `value`; empty if it is not found."""
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
