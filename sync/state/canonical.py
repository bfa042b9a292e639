"""Canonical JSON: one spelling per value, so that equal states have equal bytes and equal digests. Pure."""

from __future__ import annotations

import orjson


def encode(value: object) -> bytes:
    """Return `value` as compact UTF-8 JSON with sorted keys.

    Raises:
        TypeError: the value holds something JSON has no form for, or an integer beyond 64 bits.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def decode(data: bytes) -> object:
    """Return the value that JSON bytes stand for.

    Raises:
        ValueError: the bytes are not JSON.
    """
    value: object = orjson.loads(data)
    return value
