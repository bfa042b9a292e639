"""JSON values for property tests, and the equality JSON itself has."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from([0, 1, 0.0, 1.0, True, False, "", "a"])
)
_NAMES = st.sampled_from(["a", "b", "c", ""]) | st.text(max_size=3)

JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=12
)
OBJECTS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(_NAMES, JSON, max_size=5)


def same(a: object, b: object) -> bool:
    """Whether two values are the same JSON: spelt out, so that true, 1 and 1.0 differ."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
