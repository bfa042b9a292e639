"""What the console says of a tab, of two versions and of an event follows from values alone."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.console.reports import tab_status
from gateway.console.reports.tab_status import Difference, Quantile, Status, View
from gateway.hub.pending import PendingTopics
from gateway.hub.topic import LiveTopic, Subscription
from gateway.metrics import Histogram
from sync.store.store import LogEntry, Snapshot

NOW = 1_800_000_000.0
VERSION = int((NOW - 60) * 1e6)
SINCE = NOW - 30


class Wire:
    """A socket that takes everything."""

    def __init__(self) -> None:
        self.pending: PendingTopics[Subscription] | None = None
        self.deflate = False
        self.opened_at = 0.0
        self.direct_fd = -1

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Drop it."""

    def write(self, data: bytes) -> None:
        """Drop it."""

    def end(self, topic: str, reason: str) -> None:
        """Drop it."""


def tab(version: int = VERSION, **fields: Any) -> Subscription:
    live = LiveTopic("tenant:acme", b"pw:{tenant:acme}")
    live.set(version, b"{}", b"")
    live.known = True
    made = Subscription(Wire(), live, fields.pop("held", 0), 0)
    live.subscriptions.append(made)
    made.sent = version
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def view(**fields: Any) -> View:
    return View(NOW, 1.75, 100, True)._replace(**fields)


def status(subscription: Subscription, since: float = SINCE, **fields: Any) -> Status:
    return tab_status.judge(subscription, since, view(**fields)).status


def test_a_tab_that_said_it_shows_the_newest_is_synced() -> None:
    assert status(tab(acked=VERSION)) is Status.SYNCED
    assert status(tab(held=VERSION)) is Status.SYNCED
    assert tab_status.judge(tab(acked=VERSION), SINCE, view()).owed_s is None


def test_a_tab_told_that_there_is_no_state_has_nothing_to_answer() -> None:
    assert status(tab(version=0, sent=0)) is Status.SYNCED


def test_a_tab_without_an_answer_is_behind_once_the_answer_is_due() -> None:
    judged = tab_status.judge(tab(acked=VERSION - 1), SINCE, view())
    assert judged.status is Status.BEHIND
    assert judged.owed_s == 30
    assert status(tab(), since=NOW - 1) is Status.SENT
    assert status(tab(), since=NOW - 2) is Status.BEHIND


def test_a_tab_that_does_not_drain_is_behind_at_once() -> None:
    slow = tab(sent=VERSION - 1)
    slow.socket.pending = PendingTopics()
    judged = tab_status.judge(slow, NOW, view())
    assert judged.status is Status.BEHIND
    assert "no more data" in judged.why


def test_what_a_blocked_socket_got_and_did_not_answer_is_behind_but_a_proved_one_is_not() -> None:
    slow = tab()
    slow.socket.pending = PendingTopics()
    assert status(slow, since=NOW) is Status.BEHIND
    slow.acked = VERSION
    assert status(slow, since=NOW) is Status.SYNCED


def test_a_refusal_counts_for_the_newest_version_only_and_until_it_is_taken_after_all() -> None:
    assert status(tab(nacked=VERSION)) is Status.NACKED
    assert status(tab(nacked=VERSION - 1, acked=VERSION)) is Status.SYNCED
    assert status(tab(nacked=VERSION, acked=VERSION)) is Status.SYNCED
    assert status(tab(nacked=VERSION + 9)) is Status.BEHIND
    assert status(tab(version=0, sent=0, nacked=0)) is Status.SYNCED


def test_nothing_is_synced_while_the_gateway_is_not_proved_current() -> None:
    assert status(tab(acked=VERSION), is_current=False) is Status.STALE
    assert status(tab(acked=VERSION, sent=-1)) is Status.STALE
    unknown = tab(acked=VERSION)
    unknown.live.known = False
    assert status(unknown) is Status.STALE


def test_a_member_of_a_crowd_is_not_blamed_for_an_ack_that_nobody_asked_for() -> None:
    member = tab()
    assert status(member, crowd=1) is Status.BEHIND
    member.live.subscriptions.append(member)
    assert status(member, crowd=1) is Status.SENT
    member.sent = VERSION - 1
    assert status(member, crowd=1) is Status.BEHIND


def test_a_tab_sent_back_is_not_asked_to_acknowledge_again() -> None:
    assert status(tab(acked=VERSION + 5)) is Status.SENT


def test_the_worst_comes_first() -> None:
    judged = [(tab(), tab_status.Judgement(one, "", None)) for one in (Status.SYNCED, Status.NACKED, Status.BEHIND)]
    assert [item[1].status for item in tab_status.worst_first(judged)] == [Status.NACKED, Status.BEHIND, Status.SYNCED]
    assert tab_status.worst({Status.SYNCED: 3, Status.STALE: 1, Status.NACKED: 0}) is Status.STALE
    assert tab_status.worst({}) is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("/a", "1", "2")]),
        ({"a": 1}, {}, [("/a", "1", None)]),
        ({}, {"a": None}, [("/a", None, "null")]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, [("/a/c", "2", "3")]),
        ({"a": [1, 2]}, {"a": [1, 3, 4]}, [("/a/1", "2", "3"), ("/a/2", None, "4")]),
        ({"a": 1}, {"a": True}, [("/a", "1", "true")]),
        ({"a/b~c": 1}, {"a/b~c": 2}, [("/a~1b~0c", "1", "2")]),
        (None, {"a": 1}, [("", "null", '{"a":1}')]),
        ({"z": 1, "a": 1}, {"z": 2, "a": 2}, [("/a", "1", "2"), ("/z", "1", "2")]),
    ],
)
def test_differences(old: object, new: object, expected: list[tuple[str, str | None, str | None]]) -> None:
    assert tab_status.differences(old, new) == [Difference(*item) for item in expected]


def test_differences_are_bounded_in_number_and_need_no_stack() -> None:
    assert len(tab_status.differences({}, {str(i): i for i in range(50)}, 7)) == 7
    old: object = 0
    new: object = 1
    for _ in range(5000):
        old, new = [old], [new]
    assert len(tab_status.differences(old, new)) == 1


def test_a_timeline_tells_what_each_version_changed() -> None:
    entries = [
        LogEntry(3, b'{"a":2,"b":1}', b'{"event_id":"evt_3"}'),
        LogEntry(2, b'{"a":1,"b":1}', b""),
        LogEntry(1, b"{}", b""),
    ]
    assert [(line["version"], line["changed"], line["paths"]) for line in tab_status.timeline(entries, 2)] == [
        (3, 1, ["/a"]),
        (2, 2, ["/a", "/b"]),
    ]
    assert tab_status.timeline(entries, 3)[2]["changed"] is None
    assert tab_status.timeline(entries, 3)[0]["cause"] == {"event_id": "evt_3"}


def test_the_committed_version_is_shown_without_its_private_part() -> None:
    snapshot = Snapshot("tenant:acme", 5, b'{"n":12345678901234567890}', b'{"secret":1}', b"[1]")
    assert tab_status.committed(snapshot) == {"version": 5, "state": '{\n  "n": 12345678901234567890\n}', "cause": {}}


def test_an_event_of_odd_bytes_is_still_shown() -> None:
    shown = tab_status.event({b"event_id": b"evt\xff", b"outcome": b"refused", b"at": b"x", b"reason": b"<b>"})
    assert shown == {"event_id": "evt\ufffd", "type": "", "outcome": "refused", "reason": "<b>", "at": 0}


def test_a_quantile_is_the_bound_that_the_share_stays_within() -> None:
    histogram = Histogram((0.1, 1.0))
    assert tab_status.quantile(histogram, 0.5) is None
    histogram.observe(0.05, 98)
    histogram.observe(5, 2)
    assert tab_status.quantile(histogram, 0.5) == Quantile(0.1, 0.1)
    assert tab_status.quantile(histogram, 0.99) == Quantile(None, 1.0)


def test_the_page_knows_the_refusal_that_is_none() -> None:
    from pathlib import Path

    from gateway import console
    from sync.billing.domain.reducer import ASKED_SINCE

    assert f'"{ASKED_SINCE}"' in (Path(console.__file__).parent / "static" / "model" / "attention.js").read_text()


def test_the_console_offers_the_scenarios_that_the_simulator_has() -> None:
    from gateway.console.routes.dev_actions import SCENARIOS
    from sync.simulator.scenarios.scenario import bundled

    assert tuple(f"scenario:{name}" for name in bundled()) == SCENARIOS
