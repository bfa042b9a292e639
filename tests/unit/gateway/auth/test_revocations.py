"""Revocations: what they hit, that they never move back, and that they stay bounded."""

from __future__ import annotations

import pytest

from gateway.auth.claims import Claims
from gateway.auth.revocations import LOGIN_TTL_S, OP, Revocation, Revocations, decode, encode
from gateway.fleet.control_channel import ControlChannel

OLD = Claims("u1", 9e9, ("*",), jti="t1", iat=100)
NEW = Claims("u1", 9e9, ("*",), jti="t2", iat=201)
OTHER = Claims("u2", 9e9, ("*",), iat=100)


def test_nothing_is_revoked_at_first() -> None:
    assert not Revocations().is_revoked(Claims("u1", 9e9, ()), "tenant:acme")


def test_a_subject_loses_what_was_issued_before() -> None:
    revocations = Revocations()
    assert revocations.revoke("sub", "u1", 200)
    assert revocations.is_revoked(OLD)
    assert not revocations.is_revoked(NEW)
    assert not revocations.is_revoked(OTHER)


def test_the_same_second_counts_as_before() -> None:
    revocations = Revocations()
    revocations.revoke("sub", "u1", 201)
    assert revocations.is_revoked(NEW)


def test_one_token_can_be_revoked_alone() -> None:
    revocations = Revocations()
    revocations.revoke("jti", "t1", 300)
    assert revocations.is_revoked(OLD)
    assert not revocations.is_revoked(NEW)


@pytest.mark.parametrize("iat", [0, 299, 300, 301, 9e9])
def test_a_token_id_is_revoked_whenever_the_token_says_it_was_issued(iat: float) -> None:
    revocations = Revocations()
    revocations.revoke("jti", "t1", 300)
    assert revocations.is_revoked(Claims("u1", 9e9, ("*",), jti="t1", iat=iat))
    assert revocations.is_revoked(Claims("u1", 9e9, ("*",), jti="t1", iat=iat), "tenant:acme")


def test_a_token_without_an_id_is_not_that_of_an_empty_one() -> None:
    revocations = Revocations()
    revocations.revoke("jti", "t1", 300)
    assert not revocations.is_revoked(OTHER)


def test_a_topic_is_closed_to_old_tokens_and_nothing_else_is() -> None:
    revocations = Revocations()
    revocations.revoke("topic", "tenant:acme", 200)
    assert revocations.is_revoked(OLD, "tenant:acme")
    assert revocations.is_revoked(OTHER, "tenant:acme")
    assert not revocations.is_revoked(NEW, "tenant:acme")
    assert not revocations.is_revoked(OLD, "tenant:beta")
    assert not revocations.is_revoked(OLD)


def test_a_subject_can_lose_one_topic() -> None:
    revocations = Revocations()
    revocations.revoke("sub_topic", "tenant:acme u1", 200)
    assert revocations.is_revoked(OLD, "tenant:acme")
    assert not revocations.is_revoked(OTHER, "tenant:acme")
    assert not revocations.is_revoked(OLD, "tenant:beta")


def test_a_token_that_does_not_say_when_it_was_issued_is_older_than_any_revocation() -> None:
    revocations = Revocations()
    revocations.revoke("sub", "u1", 1)
    assert revocations.is_revoked(Claims("u1", 9e9, ()))


def test_a_revocation_never_moves_back() -> None:
    revocations = Revocations()
    assert revocations.revoke("sub", "u1", 205)
    assert not revocations.revoke("sub", "u1", 150)
    assert not revocations.revoke("sub", "u1", 205)
    assert revocations.is_revoked(NEW)
    assert revocations.revoke("sub", "u1", 206)


def test_too_many_make_a_general_one_rather_than_forget() -> None:
    revocations = Revocations(limit=2)
    revocations.revoke("sub", "a", 100)
    revocations.revoke("sub", "b", 150)
    revocations.revoke("sub", "c", 160)
    assert len(revocations) == 2
    assert revocations.is_revoked(Claims("anyone", 9e9, (), iat=100))
    assert not revocations.is_revoked(Claims("anyone", 9e9, (), iat=101))
    assert revocations.is_revoked(Claims("b", 9e9, (), iat=140))


def test_old_ones_can_be_dropped() -> None:
    revocations = Revocations()
    revocations.revoke("sub", "u1", 100)
    revocations.revoke("sub", "u2", 200)
    revocations.prune(before=150)
    assert not revocations.is_revoked(OLD)
    assert revocations.is_revoked(OTHER)


def heard(payload: bytes) -> Revocation | None:
    """The revocation that a message of the control channel tells of."""
    found: list[Revocation | None] = [None]
    channel = ControlChannel()
    channel.on(OP, lambda message: found.append(decode(message)))
    channel.heard(payload)
    return found[-1]


def test_what_is_announced_is_understood() -> None:
    revocation = Revocation("sub_topic", "tenant:acme u1", 12.5)
    assert heard(encode(revocation)) == revocation


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b'{"op":"other"}', b'{"op":"revoke"}', b'{"op":"revoke","kind":"x","value":"y","at":1}',
     b'{"op":"revoke","kind":"sub","value":"","at":1}', b'{"op":"revoke","kind":"sub","value":"u","at":true}',
     b'{"op":"revoke","kind":"sub","value":"u","at":-1}', b'{"op":"revoke","kind":["sub"],"value":"u","at":1}'],
)  # fmt: skip
def test_anything_else_on_the_channel_is_no_revocation(data: bytes) -> None:
    assert heard(data) is None


def test_values_are_bounded() -> None:
    assert decode({"kind": "sub", "value": "x" * 769, "at": 1}) is None


STREAM = Claims("console-c_1", 9e9, ("*",), scope=("console",), jti="console-1", iat=300)


def test_a_login_that_was_logged_out_of_ends_with_its_stream_and_no_other_does() -> None:
    revocations = Revocations()
    assert revocations.revoke("login", "console-1", 200)
    assert not revocations.revoke("login", "console-1", 201)
    assert revocations.is_login_ended("console-1", 100)
    assert revocations.is_revoked(STREAM), "also a token of it that was made after"
    assert not revocations.is_login_ended("console-2", 100)
    assert not revocations.is_revoked(OLD)
    assert heard(encode(Revocation("login", "console-1", 200.0))) == Revocation("login", "console-1", 200.0)


def test_logouts_are_bounded_and_touch_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.auth.revocations.LOGINS_MAX", 2)
    revocations = Revocations(2)
    revocations.revoke("sub", "u1", 50)
    for number in range(4):
        revocations.revoke("login", f"console-{number}", 100 + number)
    assert revocations.is_login_ended("console-0", 90), "what is given up ends all logins before it"
    assert revocations.is_login_ended("console-other", 101)
    assert not revocations.is_login_ended("console-other", 102)
    assert not revocations.is_revoked(OTHER)
    assert not revocations.is_revoked(OLD)
    assert revocations.is_revoked(Claims("u1", 9e9, ("*",), iat=49))


def test_a_logout_is_kept_as_long_as_a_login_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.auth.revocations.LOGINS_MAX", 2)
    revocations = Revocations()
    for number in range(3):
        revocations.revoke("login", f"console-{number}", number * (LOGIN_TTL_S + 1))
    assert not revocations.is_login_ended("console-other", 0), "nothing had to be given up"


def test_what_a_revocation_is_about() -> None:
    claims = Claims("u1", 9e9, ("tenant:acme",), jti="t1")
    for kind, value, other, topic in (
        ("sub", "u1", "u2", ""),
        ("jti", "t1", "t2", ""),
        ("login", "t1", "t2", ""),
        ("topic", "tenant:acme", "tenant:b", "tenant:acme"),
        ("sub_topic", "tenant:acme u1", "tenant:acme u2", "tenant:acme"),
    ):
        revocation, another = (decode({"kind": kind, "value": one, "at": 1}) for one in (value, other))
        assert revocation is not None
        assert another is not None
        assert (revocation.matches(claims), another.matches(claims)) == (True, False)
        assert revocation.topic == topic


def test_a_tenant_s_revocation_covers_its_usage() -> None:
    both, alone = Claims("u1", 9e9, ("tenant:acme",), iat=1), Claims("u1", 9e9, ("usage:acme",), iat=1)
    revocations = Revocations()
    revocations.revoke("topic", "tenant:acme", 2)
    assert revocations.is_revoked(both, "usage:acme")
    assert revocations.is_revoked(alone, "usage:acme")
    assert not revocations.is_revoked(both, "usage:other")
    assert Revocation("topic", "tenant:acme", 2).matches(alone)
    assert not Revocation("topic", "usage:acme", 2).matches(Claims("u1", 9e9, ("tenant:other",)))
