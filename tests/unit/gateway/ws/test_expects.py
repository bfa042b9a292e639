"""An expect is answered at once, or is pending until its version has come or its time is over."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.ws import expects as module
from gateway.ws.expects import Expects
from gateway.ws.session_socket import SessionSocket

A = "tenant:a"


class Wire:
    """A socket that has been sent version 5 of its topic."""

    def __init__(self) -> None:
        self.session = SimpleNamespace(topics={A: SimpleNamespace(sent=5)})
        self.frames: list[dict[str, Any]] = []

    def write_text(self, text: bytes) -> None:
        self.frames.append(json.loads(text))

    def types(self) -> list[str]:
        found = [frame["type"] for frame in self.frames]
        self.frames.clear()
        return found


@pytest.fixture
def asked() -> list[str]:
    """Return the topics that were to be compared with their provider."""
    return []


@pytest.fixture
def read() -> list[tuple[str, str]]:
    """Return the checkouts that were to be read, with their topics."""
    return []


@pytest.fixture
def expects(asked: list[str], read: list[tuple[str, str]]) -> Expects:
    metrics = Metrics()

    def want_checkout(topic: str, checkout: str) -> None:
        read.append((topic, checkout))

    hub = Hub(
        metrics,
        lambda channel: None,
        lambda channel: None,
        lambda name: None,
        want_reconcile=asked.append,
        want_checkout=want_checkout,
    )
    return Expects(hub, metrics, 0.25)


def test_what_is_there_is_current_and_what_is_not_is_pending(expects: Expects) -> None:
    wire = Wire()
    expects.add(cast(SessionSocket, wire), A, 4, 10)
    expects.add(cast(SessionSocket, wire), A, 5, 10)
    assert wire.types() == ["current", "pending"]
    assert len(expects) == 1


def test_the_provider_is_asked_once_the_webhook_has_had_its_time(expects: Expects, asked: list[str]) -> None:
    wire = Wire()
    expects.add(cast(SessionSocket, wire), A, 5, 10)
    expects.tick(time.monotonic())
    assert asked == []
    expects.tick(time.monotonic() + 2)
    assert asked == [A]
    assert wire.types() == ["pending"]


def test_one_that_names_its_checkout_has_that_read_instead(
    expects: Expects, asked: list[str], read: list[tuple[str, str]]
) -> None:
    wire = Wire()
    expects.add(cast(SessionSocket, wire), A, 4, 10, "txn_0")
    expects.add(cast(SessionSocket, wire), A, 5, 10, "txn_1")
    assert wire.types() == ["current", "pending"]
    expects.tick(time.monotonic() + 2)
    assert (asked, read) == ([], [(A, "txn_1")])


def test_one_whose_checkout_is_in_the_state_is_answered_without_a_newer_version(expects: Expects) -> None:
    """Its webhook came before the page did."""
    wire, late, other = Wire(), Wire(), Wire()
    for each, checkout in ((wire, "txn_1"), (late, "txn_1"), (other, "txn_2")):
        expects.add(cast(SessionSocket, each), A, 5, 10, checkout)
    assert expects.checkouts() == [], "the webhook has its time"
    expects.tick(time.monotonic() + 2)
    assert sorted(expects.checkouts()) == [(A, "txn_1"), (A, "txn_2")]
    late.session.topics[A].sent = 3
    expects.applied(A, "txn_1", 5)
    assert wire.frames[-1] == {"type": "current", "topic": A, "version": 5, "checkout": "txn_1"}
    assert (late.types(), other.types()) == (["pending"], ["pending"]), "a socket that lags gets the state first"
    late.session.topics[A].sent = 5
    expects.applied(A, "txn_1", 5)
    assert (late.types(), expects.checkouts(), len(expects)) == (["current"], [(A, "txn_2")], 1)
    expects.tick(time.monotonic() + 11)
    assert (other.types(), expects.checkouts()) == (["expired"], [])


def test_checkouts_are_asked_about_in_turn_and_forgotten_with_their_socket(
    expects: Expects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKOUTS_MAX", 2)
    wire, other = Wire(), Wire()
    for number in range(3):
        expects.add(cast(SessionSocket, wire), A, 5, 10, f"txn_{number}")
    expects.add(cast(SessionSocket, other), A, 5, 10, "txn_2")
    expects.tick(time.monotonic() + 2)
    assert {checkout for _ in range(2) for _, checkout in expects.checkouts()} == {"txn_0", "txn_1", "txn_2"}
    expects.drop(cast(SessionSocket, wire))
    assert expects.checkouts() == [(A, "txn_2")]


def test_a_socket_may_ask_so_often_and_waits_all_the_same(expects: Expects, asked: list[str]) -> None:
    wire, other = Wire(), Wire()
    for after in range(5, 5 + 2 * module.ASKS_BURST):
        expects.add(cast(SessionSocket, wire), A, after, 10)
    assert wire.types() == ["pending"] * 2 * module.ASKS_BURST
    expects.tick(time.monotonic() + 2)
    assert len(asked) == module.ASKS_BURST
    expects.add(cast(SessionSocket, other), A, 5, 10)
    expects.tick(time.monotonic() + 4)
    assert len(asked) == module.ASKS_BURST + 1
    expects.drop(cast(SessionSocket, wire))
    assert list(expects._asks_until) == [cast(SessionSocket, other)]


def test_it_expires_unless_the_version_has_come(expects: Expects) -> None:
    met, unmet = Wire(), Wire()
    for wire in (met, unmet):
        expects.add(cast(SessionSocket, wire), A, 5, 10)
    met.session.topics[A].sent = 6
    expects.tick(time.monotonic() + 11)
    assert (met.types(), unmet.types()) == (["pending"], ["pending", "expired"])
    assert len(expects) == 0


def test_those_of_a_socket_are_bounded_and_met_ones_make_room(
    expects: Expects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXPECTS_PER_SOCKET", 2)
    wire = Wire()
    for after in (5, 6, 6, 7):
        expects.add(cast(SessionSocket, wire), A, after, 10)
    assert wire.types() == ["pending", "pending", "pending", "error"]
    wire.session.topics[A].sent = 6
    expects.add(cast(SessionSocket, wire), A, 7, 10)
    assert wire.types() == ["pending"]
    expects.drop(cast(SessionSocket, wire))
    assert len(expects) == 0
