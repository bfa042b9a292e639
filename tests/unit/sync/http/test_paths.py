"""A path is decoded once, and an escaped slash separates nothing."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given, strategies as st
from starlette.requests import Request

from sync.http.parameters import PathText
from sync.http.paths import route_path
from sync.http.problem import Problem

SEGMENT = PathText("id", "An id.")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4))
def test_every_segment_is_decoded_once(segments: list[str]) -> None:
    raw = "/" + "/".join(quote(one, safe="") for one in segments)
    found = route_path(raw.encode()).split("/")[1:]
    assert len(found) == len(segments)
    assert [read(one) for one in found] == segments


def read(segment: str) -> str:
    return SEGMENT.read(Request({"type": "http", "path_params": {"id": segment}, "headers": []}))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1/state/tenant:a%7Cb", "/v1/state/tenant:a|b"),
        (b"/v1/tenants/org%2f42/status", "/v1/tenants/org%2f42/status"),
        (b"/v1/tenants/a%257Cb/status", "/v1/tenants/a%257Cb/status"),
        (b"/%76%31/state/x", "/v1/state/x"),
        (b"/a%", "/a%"),
        (b"/a%2", "/a%2"),
        (b"/a%zz", "/a%zz"),
        (b"/%FF", "/%FF"),
        (b"/\xff%20", "/\\xff%20"),
    ],
)
def test_paths(raw: bytes, path: str) -> None:
    assert route_path(raw) == path


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(Problem, match="not UTF-8"):
        read(route_path(b"%FF"))


def test_a_decoded_path_is_not_decoded_again() -> None:
    assert unquote(route_path(b"%257C")) == read(route_path(b"%257C")) == "%7C"
