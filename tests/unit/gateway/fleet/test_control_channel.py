"""Messages of the control channel reach the handler of their kind, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.fleet.control_channel import ControlChannel


@pytest.fixture
def heard() -> list[tuple[str, Mapping[str, Any]]]:
    return []


@pytest.fixture
def channel(heard: list[tuple[str, Mapping[str, Any]]]) -> ControlChannel:
    channel = ControlChannel()
    for op in ("revoke", "ask"):
        channel.on(op, lambda message, op=op: heard.append((op, message)))  # type: ignore[misc]
    return channel


def test_a_message_goes_to_the_handler_of_its_kind(channel: ControlChannel, heard: list[Any]) -> None:
    channel.heard(b'{"op":"ask","id":"1"}')
    channel.heard(b'{"op":"revoke"}')
    assert heard == [("ask", {"op": "ask", "id": "1"}), ("revoke", {"op": "revoke"})]


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"5", b"\xff", b"{}", b'{"op":"new"}', b'{"op":["ask"]}', b'{"op":null}']
)
def test_what_is_not_a_message_of_a_known_kind_is_ignored(
    payload: bytes, channel: ControlChannel, heard: list[Any]
) -> None:
    channel.heard(payload)
    assert heard == []


def test_a_later_handler_replaces_an_earlier_one(channel: ControlChannel, heard: list[Any]) -> None:
    channel.on("ask", lambda message: heard.append("later"))
    channel.heard(b'{"op":"ask"}')
    assert heard == ["later"]


def test_a_handler_that_fails_is_logged_and_does_not_end_the_reader(channel: ControlChannel, heard: list[Any]) -> None:
    def fail(message: Mapping[str, Any]) -> None:
        raise RuntimeError("of a console")

    channel.on("look", fail)
    with capture_logs() as lines:
        channel.heard(b'{"op":"look"}')
        channel.heard(b'{"op":"revoke"}')
    assert heard == [("revoke", {"op": "revoke"})]
    assert [line["event"] for line in lines] == ["control_message_failed"]
