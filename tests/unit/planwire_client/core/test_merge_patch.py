"""RFC 7396, and that a diff, where there is one, leads exactly to the new value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, strategies as st

from planwire_client.core import merge_patch
from tests.support.json_values import JSON, OBJECTS, same

APPENDIX_A: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), APPENDIX_A)
def test_the_table_of_rfc_7396_appendix_a(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch.apply(target, patch) == result


@given(target=JSON, patch=JSON)
def test_applying_changes_neither_argument(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    merge_patch.apply(target, patch)
    assert same(before[0], target)
    assert same(before[1], patch)


@given(old=JSON, new=JSON)
def test_a_diff_leads_to_the_new_value(old: Any, new: Any) -> None:
    patch = merge_patch.diff(old, new)
    if patch is not None:
        assert same(merge_patch.apply(old, patch), new)


@given(old=OBJECTS, data=st.data())
def test_a_diff_between_close_objects_leads_to_the_new_value(old: dict[str, Any], data: st.DataObject) -> None:
    new = merge_patch.apply(old, data.draw(OBJECTS))
    patch = merge_patch.diff(old, new)
    if patch is not None:
        assert same(merge_patch.apply(old, patch), new)


@given(OBJECTS)
def test_equal_objects_differ_by_nothing(value: dict[str, Any]) -> None:
    assert merge_patch.diff(value, copy.deepcopy(value)) == {}


def no_nulls(value: object) -> bool:
    if isinstance(value, dict):
        return all(inner is not None and no_nulls(inner) for inner in value.values())
    return True


@given(old=OBJECTS, new=OBJECTS.filter(no_nulls))
def test_without_null_members_there_always_is_a_diff(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge_patch.diff(old, new) is not None


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({"a": True}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": 1}, {"a": 1.0}, {"a": 1.0}),
        ({"a": 0}, {"a": False}, {"a": False}),
        ({"a": 0.0}, {"a": -0.0}, {"a": -0.0}),
        ({"a": [0.0]}, {"a": [-0.0]}, {"a": [-0.0]}),
        ({"a": [1, {"b": True}]}, {"a": [1, {"b": 1}]}, {"a": [1, {"b": 1}]}),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, {"a": [1, 2, 3]}),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": None}),
        ({"a": None}, {}, {"a": None}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": None}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 3}}}, {"a": {"b": {"d": 3}}}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": None, "b": 1}, {"a": None, "b": 2}, {"b": 2}),
        ({}, {"a": [None, {"b": None}]}, {"a": [None, {"b": None}]}),
    ],
)
def test_diffs_by_example(old: Any, new: Any, patch: Any) -> None:
    assert same(merge_patch.diff(old, new), patch)
    assert same(merge_patch.apply(old, patch), new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"a": None}),
        ({"a": 1}, {"a": None}),
        ({"a": {"b": 1}}, {"a": {"b": None}}),
        ({}, {"a": {"b": {"c": None}}}),
        ({"a": [1]}, {"a": {"b": None}}),
        ([1], {"a": 1}),
        ({"a": 1}, [1]),
        (None, {"a": 1}),
        ({"a": 1}, None),
        (1, 2),
    ],
)
def test_what_a_merge_patch_cannot_say_has_none(old: Any, new: Any) -> None:
    assert merge_patch.diff(old, new) is None
