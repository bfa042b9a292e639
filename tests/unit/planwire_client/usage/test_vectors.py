"""The vectors that the JavaScript server client runs too: requests, answers, and what an application answers then."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from planwire_client import Counted, UsageCall, UsageRefused
from planwire_client.delivery import Retryable
from planwire_client.usage.answers import counted, document_of
from planwire_client.usage.calls import request_of
from planwire_client.usage.denial import denial

VECTORS = Path(__file__).resolve().parents[3] / "vectors"


def vectors(name: str) -> list[Any]:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / f"{name}.json").read_bytes())]


def value_of(document: dict[str, Any]) -> Counted:
    """What is counted, as the vectors write it, in Python's values."""
    times = {name: datetime.fromisoformat(document[name]) for name in ("resets_at",) if document.get(name)}
    bounds = {name: math.inf for name in ("limit", "remaining") if document.get(name) == "unlimited"}
    return Counted(**{**document, **times, **bounds})


@pytest.mark.parametrize("row", vectors("usage_requests"))
def test_a_call_is_this_request(row: dict[str, Any]) -> None:
    call = UsageCall(**row["call"])
    if row["path"] is None:
        with pytest.raises(UsageRefused):
            request_of(call)
        return
    request = request_of(call)
    assert (request.method, request.path) == ("POST", row["path"])
    assert json.loads(request.content or b"") == row["body"]


@pytest.mark.parametrize("row", vectors("usage_answers"))
def test_an_answer_has_this_outcome(row: dict[str, Any]) -> None:
    body = row["body"]
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert shown(row["status"], content, row["headers"]) == expected(row["outcome"])


def shown(status: int, content: bytes, headers: dict[str, str]) -> object:
    try:
        found = document_of(status, content, headers, 0.0)
        if not isinstance(found, Retryable):
            return counted(found, "")
    except UsageRefused as error:
        return {"refused": error.code}
    return {"retry": True, "after_s": found.retry_after_s}


def expected(outcome: dict[str, Any]) -> object:
    return value_of(outcome["counted"]) if "counted" in outcome else outcome


@pytest.mark.parametrize("row", vectors("usage_denials"))
def test_units_that_do_not_fit_are_answered_so(row: dict[str, Any]) -> None:
    answer = denial(value_of(row["counted"]), row["meter"], row["now_s"], row["amount"])
    problem = json.loads(answer.body)
    assert problem.pop("detail")
    assert (answer.status, answer.headers, problem) == (row["status"], row["headers"], row["problem"])


@pytest.mark.parametrize(
    ("tenant", "meter"), [(None, "seats"), (5, "seats"), ("tenant:acme", None), ("tenant:acme", "")]
)
def test_what_is_no_text_names_nobody(tenant: Any, meter: Any) -> None:
    with pytest.raises(UsageRefused):
        request_of(UsageCall(tenant, meter))
