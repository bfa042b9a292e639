"""Equal JSON values have one spelling."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from planwire_client.core import canonical_json
from tests.support.json_values import JSON, same


def shuffled(value: object, seed: int) -> object:
    """Return an equal value whose objects list their members in another order."""
    if isinstance(value, dict):
        names = list(value)
        random.Random(seed).shuffle(names)
        return {name: shuffled(value[name], seed) for name in names}
    if isinstance(value, list):
        return [shuffled(item, seed) for item in value]
    return value


@given(value=JSON, seed=st.integers(0, 2**16))
def test_the_order_of_members_does_not_show(value: object, seed: int) -> None:
    assert canonical_json.encode(shuffled(value, seed)) == canonical_json.encode(value)


@given(JSON)
def test_what_is_encoded_is_decoded_to_the_same_value(value: object) -> None:
    assert same(canonical_json.parse(canonical_json.encode(value)), value)


@given(JSON)
def test_encoding_what_was_decoded_changes_nothing(value: object) -> None:
    once = canonical_json.encode(value)
    assert canonical_json.encode(canonical_json.parse(once)) == once


def test_it_is_compact_sorted_utf8() -> None:
    value = {"b": [1, 2.5, True, None], "a": {"é": "ü\n"}}
    assert canonical_json.encode(value) == '{"a":{"é":"ü\\n"},"b":[1,2.5,true,null]}'.encode()


@pytest.mark.parametrize("value", [{1, 2}, {"a": object()}, 2**70, {1: "a"}, "\ud800"])
def test_what_json_cannot_say_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json.encode(value)


@pytest.mark.parametrize("data", [b"", b"{", b"nul", b'{"a":1,}', b'"\xff"', b"NaN", b"1 2"])
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the contract is the class
        canonical_json.parse(data)
