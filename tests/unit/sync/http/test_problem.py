"""Every refusal is a problem document with a stable code."""

from __future__ import annotations

import orjson
import pytest
from starlette.exceptions import HTTPException

from sync.http.problem import STATUSES, Problem, problem_of
from sync.store.models import StoreError


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_every_code_has_its_status(code: str, status: int) -> None:
    response = Problem(code, "why").response()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = orjson.loads(response.body)
    assert (document["code"], document["status"], document["detail"]) == (code, status, "why")
    assert document["title"]


def test_more_members_and_headers_go_along() -> None:
    response = Problem("conflict", "why", headers={"Planwire-Version": "5"}, extra={"version": 5}).response()
    assert orjson.loads(response.body)["version"] == 5
    assert response.headers["planwire-version"] == "5"


def test_a_401_says_how_and_a_503_says_when() -> None:
    assert Problem("token_expired", "").response().headers["www-authenticate"] == "Bearer"
    assert Problem("store_unavailable", "").response().headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Problem("behind", "x"), "behind"),
        (StoreError("redis://secret"), "store_unavailable"),
        (HTTPException(404), "not_found"),
        (HTTPException(405), "method_not_allowed"),
        (HTTPException(500), "internal"),
        (RuntimeError("secret"), "internal"),
    ],
)
def test_every_error_becomes_one(error: Exception, code: str) -> None:
    problem = problem_of(error)
    assert problem.code == code
    assert "secret" not in str(problem)
