"""Each socket is sent a heartbeat once an interval, and one that does not answer several is dropped."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import cast

from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.ws.heartbeats import UNANSWERED_MAX, Heartbeats
from gateway.ws.session_socket import SessionSocket

TICKS = 4


class Wire:
    """A socket that counts what it is sent."""

    def __init__(self, number: int) -> None:
        self.session = SimpleNamespace(id=f"s_{number}", topics={})
        self.pending: dict[object, None] | None = None
        self.sent = 0
        self.unanswered = 0
        self.close_code: int | None = None

    def write(self, data: bytes) -> None:
        assert b'"type":"heartbeat"' in data
        self.sent += 1

    def count_heartbeat(self) -> int:
        self.unanswered += 1
        return self.unanswered

    def abort(self, code: int) -> None:
        self.close_code = code


def beating(count: int) -> tuple[Heartbeats, list[Wire]]:
    hub = Hub(Metrics(), lambda channel: None, lambda channel: None, lambda name: None)
    wires = [Wire(number) for number in range(count)]
    sockets = cast("list[SessionSocket]", wires)
    heartbeats = Heartbeats(hub, set(sockets), TICKS)
    for socket in sockets:
        heartbeats.group(socket).add(socket)
    return heartbeats, wires


def test_everybody_is_served_once_an_interval_in_about_equal_groups() -> None:
    heartbeats, wires = beating(400)
    served: Counter[int] = Counter()
    for tick in range(TICKS):
        before = sum(wire.sent for wire in wires)
        heartbeats.tick()
        served[tick] = sum(wire.sent for wire in wires) - before
    assert [wire.sent for wire in wires] == [1] * 400
    assert max(served.values()) < 200


def test_one_that_does_not_answer_is_dropped_and_one_that_does_not_drain_is_left_alone() -> None:
    heartbeats, (silent, answering, blocked) = beating(3)
    blocked.pending = {}
    for _ in range(TICKS * (UNANSWERED_MAX + 1)):
        heartbeats.tick()
        answering.unanswered = 0
    assert (silent.sent, silent.close_code) == (UNANSWERED_MAX, 1006)
    assert (answering.sent, answering.close_code) == (UNANSWERED_MAX + 1, None)
    assert (blocked.sent, blocked.close_code) == (0, None)


def test_a_change_of_freshness_is_sent_at_once_and_later_to_one_that_has_missed_it() -> None:
    heartbeats, (present, blocked) = beating(2)
    blocked.pending = {}
    heartbeats.announce_freshness()
    assert (present.sent, blocked.sent) == (1, 0)
    blocked.pending = None
    heartbeats.catch_up(cast(SessionSocket, blocked), since=0.0)
    assert blocked.sent == 1
    heartbeats.catch_up(cast(SessionSocket, blocked), since=float("inf"))
    assert blocked.sent == 1
