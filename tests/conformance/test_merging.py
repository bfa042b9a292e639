"""The browser client and Python make the same state of a patch, and of the snapshot that it stands for.

One Node process runs the shipped client, the module and the classic script; each case goes through the door that a
publish goes through, and through the patch that the store announces.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from planwire_client.core import canonical_json, commit, merge_patch
from planwire_client.core.document import encode
from tests.support.servers import missing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BYTES_MAX, DEPTH_MAX = 10_000_000, 100

KEYS = st.sampled_from(
    [
        "__proto__", "constructor", "prototype", "toString", "valueOf", "hasOwnProperty", "__defineGetter__",
        "length", "then", "toJSON", "0", "1", "01", "-0", "1e3", "4294967295", "", " ", "a", "A", "null",
        "\u00e9", "e\u0301", "\u212b", "\u00c5", "\u2028", "\ud7ff\ue000", "\U0001f600", "\x00", "~/", "x" * 300,
    ]
) | st.text(max_size=3)  # fmt: skip

NUMBERS = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [0, -0.0, 0.0, 1, 1.0, -1, 2**53 - 1, 1 - 2**53, 2.0**53, 2.0**64, 1e21, 1e-7, 1e308, -1e308, 5e-324, 0.1]
    )
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=4) | st.sampled_from(["__proto__", "9007199254740993"])


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = {"__proto__": value}
    return value


VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.builds(nested, SCALARS, st.integers(1, DEPTH_MAX // 2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
OBJECTS: st.SearchStrategy[Any] = st.dictionaries(KEYS, VALUES, max_size=6)


@pytest.fixture(scope="module")
def node() -> Iterator[subprocess.Popen[str]]:
    if shutil.which("node") is None:
        missing("node is not on PATH (Debian: apt-get install nodejs)")
    script = ROOT / "tests" / "interop" / "merging.mjs"
    command = ["node", str(script), str(ROOT / "clients" / "js-snippet")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def by_browser(node: subprocess.Popen[str], old: bytes, patch: bytes, new: bytes | None) -> list[dict[str, Any]]:
    """Return what both builds of the client make of it: the state after the patch, and after the snapshot."""
    assert node.stdin is not None
    assert node.stdout is not None
    case = {"old": old.decode(), "patch": patch.decode(), "new": None if new is None else new.decode()}
    node.stdin.write(json.dumps(case) + "\n")
    node.stdin.flush()
    answer: list[dict[str, Any]] = json.loads(node.stdout.readline())
    assert len(answer) == 2
    for one in answer:
        assert one["faults"] == []
        # As the doubles that they are: JavaScript writes 3.762237501132913e16 as an integer.
        one["patched"], one["whole"] = (json.loads(one[name], parse_int=float) for name in ("patched", "whole"))
    return answer


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON to every reader: numbers by value, and no zero but one."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(one) == float(other) and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and bool(one == other)


def published(value: Any) -> bytes:
    """Return the state as the store gets it from a publish of `value`, whose JSON a backend wrote."""
    return encode("state", canonical_json.parse(json.dumps(value).encode()), BYTES_MAX, DEPTH_MAX)


@settings(max_examples=600, deadline=None)
@given(old=OBJECTS, change=OBJECTS, is_change=st.booleans())
def test_a_patch_and_the_snapshot_it_stands_for_are_one_state_everywhere(
    node: subprocess.Popen[str], old: Any, change: Any, is_change: bool
) -> None:
    before = published(old)
    after = published(merge_patch.apply(orjson.loads(before), change) if is_change else change)
    patch = merge_patch.diff(orjson.loads(before), orjson.loads(after))
    if patch is None:
        return
    announced = commit.patch_argument(1, before, after)
    data = announced.partition(b" ")[2] or canonical_json.encode(patch)
    held = merge_patch.apply(orjson.loads(before), orjson.loads(data))
    assert canonical_json.encode(held) == after, "the Python client"
    for one in by_browser(node, before, data, after):
        assert alike(one["whole"], orjson.loads(after)), "a snapshot"
        assert alike(one["patched"], orjson.loads(after)), "a patch"


@settings(max_examples=300, deadline=None)
@given(target=OBJECTS | VALUES, patch=OBJECTS)
def test_any_patch_at_all_is_merged_alike(node: subprocess.Popen[str], target: Any, patch: Any) -> None:
    """Also those that no gateway makes: RFC 7396 says what comes of them."""
    before, data = published(target), published(patch)
    expected = merge_patch.apply(orjson.loads(before), orjson.loads(data))
    for one in by_browser(node, before, data, None):
        assert alike(one["patched"], expected)
