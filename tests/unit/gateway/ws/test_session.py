"""What each frame means in each state of a session: the table of docs/protocol.md, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.auth.claims import AuthFailure, Claims
from gateway.ws import session as s
from gateway.ws.session import Session, SessionConfig
from planwire_client.core import frames

NOW = 1_795_400_000.0
A, B, C = "tenant:a", "tenant:b", "tenant:c"

CLAIMS = {
    "good": Claims("ann", NOW + 600, (A, B)),
    "later": Claims("ann", NOW + 1200, (A, B)),
    "only-a": Claims("ann", NOW + 600, (A,)),
    "other-subject": Claims("bob", NOW + 1200, (A, B)),
    "all": Claims("ann", NOW + 600, ("*",)),
    "no-read": Claims("ann", NOW + 600, (A,), ("console",)),
}


def verify(token: str, now: float) -> Claims | AuthFailure:
    claims = CLAIMS.get(token)
    if claims is None:
        return AuthFailure("token_signature")
    return AuthFailure("token_expired") if claims.is_expired(now) else claims


def new(**rules: Any) -> Session[str]:
    return Session(
        "s_1", SessionConfig(**{"verify": verify, "topics_max": 3, "frames_per_s": 50, "heartbeat_ms": 15_000, **rules})
    )


def subscriber(session: Session[str], type_: str, now: float = NOW, **fields: Any) -> list[s.Effect]:
    """Return what a frame leads to, with the shell's part done: topics attached and detached."""
    effects = session.receive(json.dumps({"type": type_, **fields}).encode(), now, True)
    for effect in effects:
        match effect:
            case frames.Subscribe(topic, _):
                session.topics[topic] = "subscription"
            case frames.Unsubscribe(topic):
                del session.topics[topic]
    return effects


def opened(*topics: str, token: str = "good", **rules: Any) -> Session[str]:
    session = new(**rules)
    subscriber(session, "hello", token=token, topics=dict.fromkeys(topics, 0))
    assert session.claims is not None
    return session


def shown(effects: list[s.Effect]) -> list[Any]:
    """Return effects with their frames as values, to be compared."""
    result: list[Any] = []
    for effect in effects:
        match effect:
            case s.Send(frame) | s.Accepted(frame) | s.Renewed(frame):
                value = json.loads(frame)
                value.pop("message", None)
                result.append((type(effect).__name__, value))
            case s.Close(code, _):
                result.append(("Close", code))
            case _:
                result.append(effect)
    return result


def error(code: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return ("Send", {"type": "error", "code": code, **fields})


# Before the hello: it, or the end.


def test_a_hello_opens_the_session_and_subscribes_what_it_names() -> None:
    session = new(reconnect_ms=lambda: (1, 2), ack_rule=lambda: (0.5, 7))
    assert shown(subscriber(session, "hello", token="good", topics={A: 0, B: 7}, client="js/1")) == [
        (
            "Accepted",
            {
                "type": "welcome",
                "session": "s_1",
                "heartbeat_ms": 15_000,
                "fresh": True,
                "token_expires_at": int(NOW) + 600,
                "reconnect": {"min_ms": 1, "max_ms": 2},
                "ack": {"share": 0.5, "after_ms": 7},
            },
        ),
        frames.Subscribe(A, 0),
        frames.Subscribe(B, 7),
    ]
    assert session.claims == CLAIMS["good"]
    assert session.client == "js/1"


def test_the_welcome_says_when_the_bus_is_not_proved() -> None:
    frame = new().receive(b'{"type":"hello","token":"good"}', NOW, False)[0]
    assert isinstance(frame, s.Accepted)
    assert json.loads(frame.frame)["fresh"] is False


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "subscribe", "topic": A},
        {"type": "unsubscribe", "topic": A},
        {"type": "ack", "topic": A, "version": 1},
        {"type": "nack", "topic": A, "version": 1},
        {"type": "expect", "topic": A, "after": 1},
        {"type": "token", "token": "good"},
    ],
)
def test_any_other_frame_first_ends_it(frame: dict[str, Any]) -> None:
    session = new()
    assert shown(subscriber(session, **{"type_": frame.pop("type"), **frame})) == [error("no_hello"), ("Close", 4501)]
    assert session.claims is None
    assert session.topics == {}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "bad_json"),
        (b"[]", "bad_frame"),
        (b'{"type":"hello"}', "bad_frame"),
        (b'{"type":"hello","token":"good","topics":{"x":0}}', "bad_topic"),
        (b'{"type":"nope"}', "unknown_type"),
    ],
)
def test_a_first_frame_that_is_none_ends_it(data: bytes, code: str) -> None:
    session = new()
    assert shown(session.receive(data, NOW, True)) == [error(code), ("Close", 4500)]
    assert session.claims is None


def test_a_refused_token_ends_it_with_the_reason() -> None:
    session = new()
    assert shown(subscriber(session, "hello", token="bad", topics={A: 0})) == [
        error("token_signature"),
        ("Close", 4401),
    ]
    assert shown(subscriber(new(), "hello", token="good", now=NOW + 600)) == [error("token_expired"), ("Close", 4401)]
    assert session.claims is None
    assert session.topics == {}


def test_topics_the_token_does_not_name_are_refused_one_by_one() -> None:
    session = new(topics_max=10)
    effects = shown(
        subscriber(session, "hello", token="only-a", topics={A: 0, B: 0, "probe:x": 0, "sandbox/tenant:a": 0})
    )
    assert effects[1:] == [
        frames.Subscribe(A, 0),
        error("forbidden", topic=B),
        error("forbidden", topic="probe:x"),
        error("forbidden", topic="sandbox/tenant:a"),
    ]
    assert list(session.topics) == [A]


def test_a_token_for_everything_opens_everything_but_probes() -> None:
    effects = shown(
        subscriber(new(), "hello", token="all", topics={"sandbox/user:x": 0, "probe:x": 0, "sandbox/probe:y": 0})
    )
    assert effects[1:] == [
        frames.Subscribe("sandbox/user:x", 0),
        error("forbidden", topic="probe:x"),
        error("forbidden", topic="sandbox/probe:y"),
    ]


def test_a_token_without_the_read_scope_opens_nothing() -> None:
    assert shown(subscriber(new(), "hello", token="no-read", topics={A: 0}))[1:] == [error("forbidden", topic=A)]


def test_more_topics_than_allowed_end_it_before_anything_is_subscribed() -> None:
    session = new()
    effects = subscriber(session, "hello", token="all", topics={f"tenant:{n}": 0 for n in range(4)})
    assert shown(effects) == [("Close", 4529)]
    assert isinstance(effects[0], s.Close)
    assert effects[0].reason.startswith("too_many_topics")
    assert session.claims is None


# After it.


def test_a_second_hello_changes_nothing() -> None:
    session = opened(A)
    assert shown(subscriber(session, "hello", token="other-subject", topics={B: 0})) == [error("bad_frame")]
    assert session.claims == CLAIMS["good"]
    assert list(session.topics) == [A]


def test_subscribing() -> None:
    session = opened(A)
    assert subscriber(session, "subscribe", topic=B, version=7) == [frames.Subscribe(B, 7)]
    assert subscriber(session, "subscribe", topic=B, version=9) == [frames.Subscribe(B, 9)]
    assert shown(subscriber(session, "subscribe", topic=C)) == [error("forbidden", topic=C)]
    assert list(session.topics) == [A, B]


def test_one_topic_too_many_ends_it_but_one_held_already_does_not() -> None:
    session = opened("tenant:1", "tenant:2", "tenant:3", token="all")
    assert subscriber(session, "subscribe", topic="tenant:1") == [frames.Subscribe("tenant:1", 0)]
    assert shown(subscriber(session, "subscribe", topic="tenant:4")) == [("Close", 4529)]
    subscriber(session, "unsubscribe", topic="tenant:1")
    assert subscriber(session, "subscribe", topic="tenant:4") == [frames.Subscribe("tenant:4", 0)]


def test_unsubscribing() -> None:
    session = opened(A)
    assert subscriber(session, "unsubscribe", topic=A) == [frames.Unsubscribe(A)]
    assert subscriber(session, "unsubscribe", topic=A) == []


def test_acks_nacks_and_expects_count_only_for_topics_held() -> None:
    session = opened(A)
    assert subscriber(session, "ack", topic=A, version=7) == [frames.Ack(A, 7)]
    assert subscriber(session, "nack", topic=A, version=7, reason="why") == [frames.Nack(A, 7, "why")]
    assert subscriber(session, "expect", topic=A, after=7, timeout_ms=9) == [frames.Expect(A, 7, 9)]
    assert subscriber(session, "ack", topic=B, version=7) == []
    assert subscriber(session, "nack", topic=B, version=7) == []
    assert shown(subscriber(session, "expect", topic=B, after=7)) == [error("not_subscribed", topic=B)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "bad_json"),
        (b"[]", "bad_frame"),
        (b'{"type":"ack","topic":"tenant:a"}', "bad_frame"),
        (b'{"type":"ack","topic":"x","version":1}', "bad_topic"),
        (b'{"type":"nope"}', "unknown_type"),
    ],
)
def test_a_frame_that_is_none_is_answered_and_changes_nothing(data: bytes, code: str) -> None:
    session = opened(A)
    assert shown(session.receive(data, NOW, True)) == [error(code)]
    assert list(session.topics) == [A]


# The token, in band.


def test_a_refresh_extends() -> None:
    session = opened(A)
    ((kind, welcome),) = shown(subscriber(session, "token", token="later"))
    assert (kind, welcome["type"]) == ("Renewed", "welcome")
    assert welcome["token_expires_at"] == int(CLAIMS["later"].exp)
    assert session.claims == CLAIMS["later"]


@pytest.mark.parametrize(
    ("token", "code"), [("bad", "token_signature"), ("", "token_signature"), ("other-subject", "subject_changed")]
)
def test_a_refused_refresh_changes_nothing(token: str, code: str) -> None:
    session = opened(A, B)
    assert shown(subscriber(session, "token", token=token)) == [error(code)]
    assert session.claims == CLAIMS["good"]
    assert list(session.topics) == [A, B]


def test_an_expired_refresh_never_extends() -> None:
    session = opened(A)
    assert shown(subscriber(session, "token", token="later", now=NOW + 1200)) == [error("token_expired")]
    assert session.claims == CLAIMS["good"]


def test_topics_that_a_refresh_no_longer_names_are_gone() -> None:
    session = opened(A, B)
    renewed, *rest = shown(subscriber(session, "token", token="only-a"))
    assert renewed[0] == "Renewed"
    assert rest == [
        frames.Unsubscribe(B),
        ("Send", {"type": "gone", "topic": B, "reason": "revoked"}),
    ]
    assert list(session.topics) == [A]
    assert shown(subscriber(session, "subscribe", topic=B)) == [error("forbidden", topic=B)]


# Revoked topics.


def test_a_topic_revoked_for_the_token_is_not_opened_again() -> None:
    revoked: set[str] = set()
    session = opened(A, B, is_revoked=lambda claims, topic: topic in revoked)
    revoked.add(B)
    assert shown(subscriber(session, "subscribe", topic=B)) == [error("forbidden", topic=B)]
    assert subscriber(session, "subscribe", topic=A) == [frames.Subscribe(A, 0)]
    fresh = new(is_revoked=lambda claims, topic: topic in revoked)
    assert shown(subscriber(fresh, "hello", token="good", topics={A: 0, B: 0}))[1:] == [
        frames.Subscribe(A, 0),
        error("forbidden", topic=B),
    ]


def test_a_refresh_with_a_token_for_which_a_topic_is_revoked_ends_that_topic() -> None:
    session = opened(A, B, is_revoked=lambda claims, topic: topic == B and claims is CLAIMS["later"])
    assert list(session.topics) == [A, B]
    assert shown(subscriber(session, "token", token="later"))[1:] == [
        frames.Unsubscribe(B),
        ("Send", {"type": "gone", "topic": B, "reason": "revoked"}),
    ]


# The rate.


def test_a_burst_of_two_seconds_worth_passes_and_one_more_ends_it() -> None:
    session = new(frames_per_s=5)
    subscriber(session, "hello", token="good", topics={A: 0})
    for _ in range(9):
        assert subscriber(session, "ack", topic=A, version=1) == [frames.Ack(A, 1)]
    effects = subscriber(session, "ack", topic=A, version=1)
    assert shown(effects) == [("Close", 4529)]
    assert isinstance(effects[0], s.Close)
    assert effects[0].reason.startswith("too_many_frames")


def test_the_rate_may_be_held_for_ever() -> None:
    session = new(frames_per_s=5)
    subscriber(session, "hello", token="good", topics={A: 0})
    for number in range(1, 500):
        assert subscriber(session, "ack", topic=A, version=1, now=NOW + number / 5) == [frames.Ack(A, 1)]


def test_the_rate_counts_frames_that_are_none_and_pings() -> None:
    session = opened(A, frames_per_s=2)
    assert session.spend(NOW)
    session.receive(b"{", NOW, True)
    session.receive(b"{", NOW, True)
    assert shown(session.receive(b"{", NOW, True)) == [("Close", 4529)]


def test_a_clock_that_steps_back_gives_and_takes_nothing() -> None:
    session = opened(A, frames_per_s=2)
    assert session.spend(NOW - 1000)
    assert session.spend(NOW - 1000)
    assert session.spend(NOW - 1000)
    assert not session.spend(NOW - 1000)
