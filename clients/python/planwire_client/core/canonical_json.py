"""Canonical JSON: one encoding per value, so that equal states have equal bytes and equal digests. Pure."""

from __future__ import annotations

import json

import orjson

_LONG_INTEGER = b"0" * 19
"""A row of this many digits may be an integer beyond 64 bits."""

_DIGITS_TO_ZERO = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))


def encode(value: object) -> bytes:
    """Return `value` as compact UTF-8 JSON with sorted keys.

    Raises:
        TypeError: the value contains something that is not JSON, or an integer beyond 64 bits.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def parse(data: bytes) -> object:
    """Return the value of JSON from outside. Integers of any size stay integers.

    (`orjson.loads` converts an integer beyond 64 bits to a double, which changes its value.)

    Raises:
        ValueError: the bytes are not JSON, have a number beyond the range of a double, or are nested too deep.
    """
    value: object = orjson.loads(data)
    if _LONG_INTEGER not in data.translate(_DIGITS_TO_ZERO):
        return value
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value
