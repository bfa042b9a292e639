"""What a token's payload may hold, and what it opens."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.auth.claims import DEFAULT_SCOPE, MESSAGES, AuthFailure, Claims, read_claims
from sync.http.problem import STATUSES

GOOD: dict[str, Any] = {"sub": "u1", "exp": 2000, "topics": ["tenant:acme"]}


def test_the_least_token_reads_its_topics() -> None:
    claims = read_claims(GOOD)
    assert claims == Claims("u1", 2000, ("tenant:acme",), ("read",), "", 0)
    assert claims is not None
    assert claims.scope is DEFAULT_SCOPE


def test_everything_a_token_may_say_is_read() -> None:
    given = {**GOOD, "scope": ["console", "private", "other"], "jti": "t1", "iat": 1000.5, "whatever": {}}
    assert read_claims(given) == Claims("u1", 2000, ("tenant:acme",), ("private", "console"), "t1", 1000.5)


def test_scope_may_be_a_string_of_words() -> None:
    claims = read_claims({**GOOD, "scope": "openid read private"})
    assert claims is not None
    assert claims.scope == ("read", "private")


@pytest.mark.parametrize(
    "change",
    [
        {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": "x" * 257},
        {"exp": None}, {"exp": "2000"}, {"exp": True}, {"exp": -1}, {"exp": 2**54}, {"exp": float("nan")},
        {"iat": "1"}, {"iat": False}, {"jti": 5}, {"jti": "x" * 257},
        {"topics": "tenant:acme"}, {"topics": [1]}, {"topics": ["tenant"]}, {"topics": ["live/tenant:acme"]},
        {"topics": [f"tenant:{n}" for n in range(65)]}, {"topics": {"tenant:acme": 1}},
        {"scope": 5}, {"scope": [1]}, {"scope": {"read": 1}},
    ],
)  # fmt: skip
def test_malformed_claims_are_none(change: dict[str, Any]) -> None:
    assert read_claims({**GOOD, **change}) is None


def test_a_token_without_topics_opens_nothing() -> None:
    claims = read_claims({"sub": "u1", "exp": 2000})
    assert claims is not None
    assert not claims.may_read("tenant:acme")


def test_topics_are_exact() -> None:
    claims = Claims("u1", 2000, ("tenant:acme",))
    assert claims.may_read("tenant:acme")
    for other in ("tenant:acme2", "tenant:acm", "sandbox/tenant:acme", "user:acme"):
        assert not claims.may_read(other)


def test_the_star_opens_all_but_probes() -> None:
    claims = Claims("u1", 2000, ("*",))
    assert claims.may_read("tenant:acme")
    assert claims.may_read("sandbox/tenant:acme")
    assert claims.may_read("probes:x")
    assert not claims.may_read("probe:x")
    assert not claims.may_read("sandbox/probe:x")


def test_not_even_a_name_opens_a_probe() -> None:
    assert not Claims("u1", 2000, ("probe:x",)).may_read("probe:x")


def test_reading_needs_the_scope() -> None:
    assert not Claims("u1", 2000, ("*",), ("console",)).may_read("tenant:acme")


def test_a_token_ends_at_its_end() -> None:
    claims = Claims("u1", 2000, ())
    assert not claims.is_expired(1999.999)
    assert claims.is_expired(2000)


@pytest.mark.parametrize("code", MESSAGES)
def test_every_failure_has_words_and_a_401(code: str) -> None:
    assert AuthFailure(code).message
    assert STATUSES[code] == 401
