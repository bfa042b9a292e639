"""How two versions, a timeline and an event are shown follows from values alone."""

from __future__ import annotations

import pytest

from gateway.console.reports import topic_views
from gateway.console.reports.topic_views import Difference
from sync.store.models import LogEntry, Snapshot


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
    assert topic_views.differences(old, new) == [Difference(*item) for item in expected]


def test_differences_are_bounded_in_number_and_need_no_stack() -> None:
    assert len(topic_views.differences({}, {str(i): i for i in range(50)}, 7)) == 7
    old: object = 0
    new: object = 1
    for _ in range(5000):
        old, new = [old], [new]
    assert len(topic_views.differences(old, new)) == 1


def test_a_timeline_tells_what_each_version_changed() -> None:
    entries = [
        LogEntry(3, b'{"a":2,"b":1}', b'{"event_id":"evt_3"}'),
        LogEntry(2, b'{"a":1,"b":1}', b""),
        LogEntry(1, b"{}", b""),
    ]
    assert [(line["version"], line["changed"], line["paths"]) for line in topic_views.timeline(entries, 2)] == [
        (3, 1, ["/a"]),
        (2, 2, ["/a", "/b"]),
    ]
    assert topic_views.timeline(entries, 3)[2]["changed"] is None
    assert topic_views.timeline(entries, 3)[0]["cause"] == {"event_id": "evt_3"}


def test_the_committed_version_is_shown_without_its_private_part() -> None:
    snapshot = Snapshot("tenant:acme", 5, b'{"n":12345678901234567890}', b'{"secret":1}', b"[1]")
    assert topic_views.committed(snapshot, 2.000005) == {
        "version": 5,
        "state": '{\n  "n": 12345678901234567890\n}',
        "cause": {},
        "age_s": pytest.approx(2),
    }


def test_an_event_of_odd_bytes_is_still_shown() -> None:
    shown = topic_views.event({b"event_id": b"evt\xff", b"outcome": b"refused", b"at": b"x", b"reason": b"<b>"})
    assert shown == {"event_id": "evt\ufffd", "type": "", "outcome": "refused", "reason": "<b>", "at": 0}
