"""One log, one form, no secrets from tracebacks."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_lines_and_the_libraries_are_json() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("gateway.x").info("connect", session="s_1")
    logging.getLogger("uvicorn.error").info("Started %s", "here")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["session"], ours["level"], ours["logger"]) == ("connect", "s_1", "info", "gateway.x")
    assert theirs["event"] == "Started here"


def test_levels_and_chatty_libraries() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("httpx2").info("GET /")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_tracebacks_hold_no_local_variables() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    token = "hunter2"
    try:
        raise RuntimeError(len(token))
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "RuntimeError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_text_for_people() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    structlog.get_logger().info("connect", session="s_1")
    assert "connect" in stream.getvalue()
    assert "session=s_1" in stream.getvalue()
