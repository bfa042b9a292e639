"""Answers of the operations: what is not known is never shown as a denial."""

from __future__ import annotations

import pytest

from sync.http.problem import Problem
from sync.store.models import StoreError
from sync.usage.api.answers import document, outcome, result
from sync.usage.calls import Answer

ANSWER = Answer(True, 3, 1, 10, 6, 0, 7, 8, 0, 0, 0, False)


def test_an_answer_has_what_its_meter_has() -> None:
    common = {"allowed": True, "used": 3, "reserved": 1, "version": 7, "usage_version": 8}
    assert document(ANSWER) == common | {"limit": 10, "remaining": 6}
    more = Answer(False, 3, 1, -1, -1, 1_000_000, 7, 8, 0, 0, 4, True)
    assert document(more) == common | {
        "allowed": False,
        "limit": "unlimited",
        "remaining": "unlimited",
        "resets_at": "1970-01-01T00:00:01.000000Z",
        "over": 4,
        "repeated": True,
    }


@pytest.mark.parametrize(
    ("found", "code", "label"),
    [
        (StoreError("away"), "store_unavailable", "unknown"),
        (Problem("limit_unknown", "publish it"), "limit_unknown", "rejected"),
    ],
)
def test_a_call_without_an_answer_is_no_denial(found: Problem | StoreError, code: str, label: str) -> None:
    assert result(found).keys() == {"code", "detail"}
    assert result(found)["code"] == code
    assert outcome(found) == label


@pytest.mark.parametrize(
    ("is_allowed", "is_repeated", "label"),
    [(True, False, "allowed"), (False, False, "denied"), (True, True, "repeated")],
)
def test_outcomes(is_allowed: bool, is_repeated: bool, label: str) -> None:
    assert outcome(Answer(is_allowed, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, is_repeated)) == label
