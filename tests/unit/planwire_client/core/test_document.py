"""What a state and a private part may hold, and how they are written."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from planwire_client.core import canonical_json
from planwire_client.core.document import INTEGER_MAX, INTEGER_MIN, DocumentError, Part, check, encode
from planwire_client.core.limits import SAFE_INTEGER_MAX

ROOT = Path(__file__).parents[4]

ANYWHERE = st.recursive(
    st.just(None),
    lambda inner: st.one_of(
        st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=2), st.lists(inner, min_size=1, max_size=2)
    ),
    max_leaves=4,
)
"""Shapes whose nulls are the places where something may stand."""


def planted(shape: object, value: object) -> object:
    """Return the shape with `value` in its first place and ones in the others."""
    left = [value]

    def fill(at: object) -> object:
        if isinstance(at, dict):
            return {key: fill(inner) for key, inner in at.items()}
        if isinstance(at, list):
            return [fill(inner) for inner in at]
        return left.pop() if left else 1

    return fill(shape)


def code_of(part: Part, value: object) -> str:
    with pytest.raises(DocumentError) as raised:
        encode(part, value, 1000, 40)
    return raised.value.code


@given(ANYWHERE, st.integers(min_value=SAFE_INTEGER_MAX + 1) | st.integers(max_value=-SAFE_INTEGER_MAX - 1))
def test_no_state_has_an_integer_that_a_browser_reads_as_another(shape: object, number: int) -> None:
    assert code_of("state", planted(shape, number)) == "number_unsafe"


@given(
    ANYWHERE, st.integers(-SAFE_INTEGER_MAX, SAFE_INTEGER_MAX) | st.sampled_from([-SAFE_INTEGER_MAX, SAFE_INTEGER_MAX])
)
def test_every_other_integer_is_kept(shape: object, number: int) -> None:
    value = planted(shape, number)
    assert orjson.loads(encode("state", value, 1000, 40)) == value


@given(ANYWHERE, st.integers(INTEGER_MIN, INTEGER_MAX) | st.sampled_from([INTEGER_MIN, INTEGER_MAX]))
def test_a_private_part_keeps_integers_of_64_bits(shape: object, number: int) -> None:
    value = planted(shape, number)
    assert orjson.loads(encode("private", value, 1000, 40)) == value


@given(ANYWHERE, st.integers(min_value=INTEGER_MAX + 1) | st.integers(max_value=INTEGER_MIN - 1) | st.just(10**5000))
def test_a_private_part_has_no_larger_ones(shape: object, number: int) -> None:
    assert code_of("private", planted(shape, number)) == "number_unsafe"


@given(ANYWHERE, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_refused_and_not_written_as_null(shape: object, number: float) -> None:
    for part in ("state", "private"):
        assert code_of(part, planted(shape, number)) == "number_unsafe"


@given(ANYWHERE, st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_double_is_kept(shape: object, number: float) -> None:
    value = planted(shape, number)
    assert orjson.loads(encode("state", value, 1000, 40)) == value


@given(ANYWHERE)
def test_there_is_one_zero(shape: object) -> None:
    for part in ("state", "private"):
        assert encode(part, planted(shape, -0.0), 1000, 40) == encode(part, planted(shape, 0.0), 1000, 40)
        assert encode(part, {"-0.0": "-0.0", "a": -0.01}, 1000, 40) == b'{"-0.0":"-0.0","a":-0.01}'


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"limits": {"bytes": 2**53}}, "state at '/limits/bytes' is an integer beyond 2^53-1"),
        ({"a/b": [0, {"~": -(2**53)}]}, "state at '/a~1b/1/~0' is an integer"),
        (2**64, "state at '' is an integer"),
        ({"x" * 200: 2**60}, "state at '/" + "x" * 79 + "' is an integer"),
        ({"\x1b[2J\n": math.nan}, "state at '/\\x1b[2J\\n' is not finite"),
    ],
)
def test_the_reason_says_where_and_what_to_do(value: object, where: str) -> None:
    with pytest.raises(DocumentError) as raised:
        check("state", value)
    assert raised.value.detail.startswith(where)
    assert "a string" in raised.value.detail
    assert not any(str(number) in str(raised.value) for number in (2**53, 2**60, 2**64)), "reasons are logged"


class Seats(enum.IntEnum):
    MANY = 2**53


class Word(enum.Enum):
    NOTHING = math.nan


class Number(int):
    """Of a library."""


@dataclass
class Limits:
    seats: object


@pytest.mark.parametrize(
    "value",
    [
        Seats.MANY, Word.NOTHING, Number(2**53), (1, 2**53), OrderedDict(a=2**53), Limits(2**53),
        {"a": [Limits((Number(2**53),))]}, [Limits(-0.0), math.inf],
    ],
)  # fmt: skip
def test_what_only_python_code_hands_over_is_looked_into(value: object) -> None:
    for inside in (value, {"a": value}, [value]):
        assert code_of("state", inside) == "number_unsafe"


def test_what_is_written_as_a_number_may_be_of_any_type() -> None:
    value = {"a": Number(7), "b": (1, Limits(-0.0)), "c": True, "d": OrderedDict(e=None)}
    assert encode("state", value, 1000, 40) == b'{"a":7,"b":[1,{"seats":0.0}],"c":true,"d":{"e":null}}'


@pytest.mark.parametrize("value", [{1, 2}, 1j, {1: 2}, object(), b"x", "\ud800"])
def test_what_is_no_json_is_a_request_that_is_invalid(value: object) -> None:
    assert code_of("state", value) == "request_invalid"


def test_bounds_of_size_and_depth() -> None:
    nested: Any = []
    for _ in range(39):
        nested = [nested]
    assert encode("state", nested, 1000, 40)
    assert code_of("state", [nested]) == "state_too_deep"
    assert code_of("state", (nested,)) == "state_too_deep"
    cyclic: list[object] = []
    cyclic.append(cyclic)
    assert code_of("private", cyclic) == "state_too_deep"
    assert encode("state", "x" * 998, 1000, 40)
    assert code_of("state", "x" * 999) == "state_too_large"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=30),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_from_outside_keeps_its_integers(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    found = canonical_json.parse(text.encode())
    assert json.dumps(found, sort_keys=True) == json.dumps(json.loads(text), sort_keys=True)


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, -(10**39)])
def test_an_integer_never_becomes_a_double(number: int) -> None:
    for data in (b"%d", b"[%d]", b'{"a":{"b":[1,%d]}}', b' { "a" :\n%d\t}'):
        assert str(number).encode() in json.dumps(canonical_json.parse(data % number)).encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"NaN", b"1 2", b"1e400", b"-1e400", b"9" * 1_000_000, b"-" + b"9" * 20 + b"x", b'"\xff' + b"9" * 20],
)
def test_what_is_not_json_has_no_value(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the contract is the class
        canonical_json.parse(data)


def test_what_is_nested_too_deep_to_be_read_has_no_value() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        canonical_json.parse(b"[" * 1020 + b"9" * 20 + b"]" * 1020)
