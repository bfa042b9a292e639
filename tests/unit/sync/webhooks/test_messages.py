"""The messages: what they say, that their ids are stable, and that what they list is what differs."""

from __future__ import annotations

import orjson
from hypothesis import given

from sync.webhooks.messages import changed, reached
from tests.support.json_values import OBJECTS

VERSION, BEFORE = 1_795_395_361_917_033, 1_795_395_356_406_607


def test_the_first_message_of_a_tenant_says_what_it_has() -> None:
    message = changed("sandbox/tenant:auth0%7C5f", VERSION, b'{"status":"active"}', 0, None)
    assert orjson.loads(message.body) == {
        "type": "entitlements.changed",
        "timestamp": "2026-11-23T00:56:01.917033Z",
        "data": {"tenant": "auth0|5f", "env": "sandbox", "version": VERSION, "state": {"status": "active"}},
    }


def test_without_the_state_before_no_list_of_changes_is_made_up() -> None:
    data = orjson.loads(changed("tenant:acme", VERSION, b"{}", BEFORE, None).body)["data"]
    assert data == {"tenant": "acme", "env": "live", "version": VERSION, "previous_version": BEFORE, "state": {}}


def test_a_state_that_is_no_object_is_told_as_a_whole() -> None:
    data = orjson.loads(changed("tenant:acme", VERSION, b"null", BEFORE, b'{"a":1}').body)["data"]
    assert (data["state"], data["changes"]) == (None, [{"path": "", "from": {"a": 1}, "to": None}])


def test_an_id_is_of_what_is_said() -> None:
    made = {
        changed("tenant:acme", VERSION, b"{}", 0, None).id,
        changed("tenant:acme", VERSION, b"{}", BEFORE, b"{}").id,
        changed("tenant:acme", VERSION + 1, b"{}", 0, None).id,
        changed("tenant:other", VERSION, b"{}", 0, None).id,
    }
    assert len(made) == 3


def test_a_threshold_names_its_meter_and_what_is_used() -> None:
    fields = {
        b"meter": b"api_calls",
        b"threshold": b"80",
        b"used": b"81",
        b"limit": b"100",
        b"at": str(VERSION).encode(),
    }
    message = reached("tenant:acme", "1795395361917-0", fields)
    assert orjson.loads(message.body) == {
        "type": "usage.threshold_reached",
        "timestamp": "2026-11-23T00:56:01.917033Z",
        "data": {"tenant": "acme", "env": "live", "meter": "api_calls", "threshold": 80, "used": 81, "limit": 100},
    }


@given(then=OBJECTS, now=OBJECTS)
def test_changes_are_of_paths_that_differ(then: dict[str, object], now: dict[str, object]) -> None:
    """A message of any two states can be made, and it lists nothing if they are the same."""
    data = orjson.loads(changed("tenant:acme", VERSION, orjson.dumps(now), BEFORE, orjson.dumps(then)).body)["data"]
    assert all(change.get("from") != change.get("to") for change in data["changes"])
    assert then != now or data["changes"] == []
