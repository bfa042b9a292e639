"""What a backend may post, and the change it becomes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.api.publish_request import CloudEvent, origin, read_change
from gateway.settings import GatewaySettings
from planwire_client.core.limits import EVENT_ID_MAX
from sync.http.problem import Problem
from sync.store.models import Change

LIMITS = GatewaySettings.from_env(
    {"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_STATE_MAX_BYTES": "1000", "PLANWIRE_STATE_MAX_DEPTH": "4"}
)
BY = {"source": "ci", "received_at": "2026-11-23T00:00:00.000Z"}
GOOD: dict[str, Any] = {"topic": "tenant:acme", "state": {"b": 1, "a": 2}}
EVENT: dict[str, Any] = {
    "specversion": "1.0", "id": "e1", "source": "/billing", "type": "plan.changed", "subject": "tenant:acme",
    "data": {"a": 1}, "time": "2026-11-23T00:00:00Z",
}  # fmt: skip


def read(item: object) -> Change:
    return read_change(item, LIMITS, BY)


def code_of(item: object) -> str:
    with pytest.raises(Problem) as raised:
        read(item)
    return raised.value.code


def test_the_least_publish() -> None:
    assert read(GOOD) == Change(
        "tenant:acme", b'{"a":2,"b":1}', cause=b'{"source":"ci","received_at":"2026-11-23T00:00:00.000Z"}'
    )


def test_the_fullest_publish() -> None:
    cause = {"source": "paddle", "event_type": "x", "event_id": "e9", "occurred_at": "2026-11-23T00:00:00.1Z"}
    change = read({**GOOD, "private": {"z": 1}, "event_id": "e1", "order": 7, "if_version": 0, "cause": cause})
    assert (change.private, change.event_id, change.if_version) == (b'{"z":1}', "e1", 0)
    assert change.order == "7".rjust(20, "0")
    assert orjson.loads(change.cause) == {**cause, "received_at": BY["received_at"], "by": "ci"}


@pytest.mark.parametrize("state", [None, 0, "x", [], [1], {}, True])
def test_any_json_value_is_a_state(state: object) -> None:
    assert orjson.loads(read({**GOOD, "state": state}).state) == state


def test_nulls_mean_not_given() -> None:
    nothing = dict.fromkeys(("private", "event_id", "order", "if_version", "cause"))
    assert read({**GOOD, **nothing}) == read(GOOD)
    assert read({**GOOD, "cause": {"event_type": None}}) == read(GOOD)


def test_integers_order_as_numbers_and_strings_as_bytes() -> None:
    assert read({**GOOD, "order": 9}).order < read({**GOOD, "order": 10}).order
    assert read({**GOOD, "order": "2026-01"}).order == "2026-01"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"topic": None}, "request_invalid"), ({"topic": 5}, "request_invalid"),
        ({"topic": "acme"}, "topic_invalid"), ({"topic": "live/tenant:acme"}, "topic_invalid"),
        ({"topic": "probe:x"}, "topic_reserved"), ({"topic": "sandbox/probe:x"}, "topic_reserved"),
        ({"stat": 1}, "request_invalid"), ({"if-version": 1}, "request_invalid"),
        ({"event_id": ""}, "request_invalid"), ({"event_id": 5}, "request_invalid"),
        ({"event_id": "x" * (EVENT_ID_MAX + 1)}, "request_invalid"),
        ({"order": -1}, "request_invalid"), ({"order": 1.5}, "request_invalid"),
        ({"order": 2**64}, "request_invalid"), ({"order": True}, "request_invalid"),
        ({"order": ""}, "request_invalid"), ({"order": "x" * 129}, "request_invalid"),
        ({"if_version": -1}, "request_invalid"), ({"if_version": "1"}, "request_invalid"),
        ({"if_version": True}, "request_invalid"), ({"if_version": 2**53}, "request_invalid"),
        ({"cause": "x"}, "request_invalid"), ({"cause": {"other": 1}}, "request_invalid"),
        ({"cause": {"source": ""}}, "request_invalid"), ({"cause": {"source": 5}}, "request_invalid"),
        ({"cause": {"occurred_at": "yesterday"}}, "request_invalid"),
        ({"cause": {"occurred_at": "2026-13-01T00:00:00Z"}}, "request_invalid"),
        ({"cause": {"occurred_at": "2026-11-23T00:00:00"}}, "request_invalid"),
        ({"state": "x" * 999}, "state_too_large"), ({"private": "x" * 999}, "state_too_large"),
        ({"state": [[[[[]]]]]}, "state_too_deep"), ({"state": {"a": [{"b": [{}]}]}}, "state_too_deep"),
        ({"private": [[[[[]]]]]}, "state_too_deep"),
        ({"state": 2**53}, "number_unsafe"), ({"state": {"a": [{"b": -(2**53)}]}}, "number_unsafe"),
        ({"state": 2**64}, "number_unsafe"), ({"private": {"a": 2**64}}, "number_unsafe"),
        ({"private": [-(2**63) - 1]}, "number_unsafe"),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, Any], code: str) -> None:
    assert code_of({**GOOD, **change}) == code


def test_numbers_are_json_numbers() -> None:
    assert read({**GOOD, "if_version": 7.0, "order": 7.0}) == read({**GOOD, "if_version": 7, "order": 7})


def test_a_cloud_events_state_has_the_same_numbers() -> None:
    assert code_of({**EVENT, "data": {"a": 2**53}}) == "number_unsafe"
    assert read({**EVENT, "data": {"a": 2**53 - 1, "b": -0.0}}).state == b'{"a":9007199254740991,"b":0.0}'


def test_limits_are_reached_before_they_are_exceeded() -> None:
    assert read({**GOOD, "state": -(2**53) + 1, "private": [2**64 - 1, -(2**63)]}).private
    assert len(read({**GOOD, "state": "x" * 998}).state) == 1000
    assert read({**GOOD, "state": [[[[1]]]]})
    assert read({**GOOD, "event_id": "x" * EVENT_ID_MAX}).event_id


@pytest.mark.parametrize("item", [None, 5, "x", [], [GOOD], {}, {"topic": "tenant:acme"}])
def test_what_is_no_publish(item: object) -> None:
    assert code_of(item) == "request_invalid"


def test_a_cloud_event_is_a_publish() -> None:
    change = read({**EVENT, "sequence": "0007", "myextension": 5, "datacontenttype": "application/vnd.x+json; a=b"})
    assert (change.topic, change.state, change.event_id, change.order) == (
        "tenant:acme", b'{"a":1}', "/billing e1", "0007",
    )  # fmt: skip
    assert orjson.loads(change.cause) == {
        "source": "/billing", "event_id": "e1", "event_type": "plan.changed",
        "occurred_at": "2026-11-23T00:00:00Z", "received_at": BY["received_at"], "by": "ci",
    }  # fmt: skip


def test_the_same_id_from_another_source_is_another_event() -> None:
    assert read(EVENT).event_id != read({**EVENT, "source": "/other"}).event_id


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"}, {"id": ""}, {"id": 5}, {"source": None}, {"type": ""}, {"subject": ""},
        {"datacontenttype": "text/xml"}, {"datacontenttype": 5}, {"data_base64": "AA=="}, {"time": "noon"},
        {"sequence": 1.5}, {"subject": "nonsense"},
    ],
)  # fmt: skip
def test_what_is_no_cloud_event(change: dict[str, Any]) -> None:
    assert code_of({**EVENT, **change}) in ("request_invalid", "topic_invalid")


def test_an_event_without_data_has_no_state() -> None:
    assert code_of({name: value for name, value in EVENT.items() if name != "data"}) == "request_invalid"


def test_a_cloud_event_may_have_every_described_attribute() -> None:
    assert {*EVENT, "sequence", "datacontenttype"} == set(CloudEvent.__annotations__)


@pytest.mark.parametrize(
    ("item", "detail"),
    [
        ([], "the body must be an object of topic, state, private, event_id, order, if_version, cause"),
        ({"state": 1}, "topic is missing"),
        ({"topic": 5, "state": 1}, "topic must be a string"),
        ({"topic": "tenant:acme"}, "state is missing"),
        (
            {**GOOD, "if-version": 1},
            "if-version is not known here: expected cause, event_id, if_version, order, private, state, topic",
        ),
        ({**GOOD, "event_id": ""}, "event_id must be a string of 1 to 512 characters"),
        (
            {**GOOD, "order": -1},
            "order must be an integer from 0 to 18446744073709551615, or a string of 1 to 128 characters",
        ),
        ({**GOOD, "if_version": "1"}, "if_version must be an integer from 0 to 9007199254740991"),
        ({**GOOD, "cause": 5}, "cause must be an object of source, event_id, event_type, occurred_at, received_at"),
        ({**GOOD, "cause": {"source": ""}}, "cause.source must be a string of 1 to 256 characters"),
        ({**GOOD, "cause": {"occurred_at": "noon"}}, "cause.occurred_at must be an RFC 3339 time"),
        (
            {**GOOD, "cause": {"other": 1}},
            "cause.other is not known here: expected event_id, event_type, occurred_at, received_at, source",
        ),
        ({**EVENT, "specversion": "0.3"}, "specversion must be 1.0"),
        ({**EVENT, "id": 5}, "id must be a string of 1 to 255 characters"),
        ({**EVENT, "data_base64": "AA=="}, "the event must carry its state as JSON in data"),
    ],
)
def test_the_detail_says_what_is_wrong(item: object, detail: str) -> None:
    with pytest.raises(Problem) as raised:
        read(item)
    assert raised.value.detail == detail


def test_an_origin_tells_the_time_in_utc() -> None:
    assert origin("ci", 1_795_395_361.917) == {"source": "ci", "received_at": "2026-11-23T00:56:01.917Z"}


@pytest.mark.parametrize("source", ["paddle", "ci"])
def test_who_names_another_source_stands_beside_it(source: str) -> None:
    claimed = orjson.loads(read({**GOOD, "cause": {"source": source}}).cause)
    assert (claimed["source"], claimed["by"]) == (source, "ci")
    assert code_of({**GOOD, "cause": {"by": "somebody"}}) == "request_invalid"
