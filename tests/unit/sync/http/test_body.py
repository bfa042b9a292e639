"""Answers of the doors: what tells a version says it in the header that backends pass on, too."""

from __future__ import annotations

import pytest

from planwire_client import VERSION_HEADER
from sync.http.body import json_response


@pytest.mark.parametrize(
    ("document", "header"),
    [
        ({"outcome": "applied", "version": 1795395356406607}, "1795395356406607"),
        ({"version": 0}, "0"),
        ({"outcome": "parked"}, None),
        ([{"version": 1}], None),
    ],
)
def test_an_answer_says_its_version_in_the_header(document: object, header: str | None) -> None:
    assert json_response(document).headers.get(VERSION_HEADER) == header
