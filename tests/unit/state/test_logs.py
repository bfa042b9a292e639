"""One log, one form, no secrets from tracebacks."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from sync.state import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs._lines = None


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


@pytest.mark.parametrize("form", logs.FORMS)
def test_tracebacks_hold_no_local_variables(form: logs.Form) -> None:
    stream = io.StringIO()
    logs.configure("info", form, stream)
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


def test_a_process_without_a_settings_model_reads_the_same_names(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure_from({"PLANWIRE_LOG_LEVEL": "error\n", "PLANWIRE_LOG_FORMAT": " text\r\n"})
    structlog.get_logger().warning("quiet")
    structlog.get_logger().error("loud", data_dir="x")
    assert "loud" in (shown := capsys.readouterr().err)
    assert "data_dir=x" in shown
    assert "quiet" not in shown
    logs.configure_from({"PLANWIRE_LOG_LEVEL": ""})
    structlog.get_logger().info("told")
    assert json.loads(capsys.readouterr().err)["event"] == "told"


@pytest.mark.parametrize("name", ["PLANWIRE_LOG_LEVEL", "PLANWIRE_LOG_FORMAT"])
def test_a_value_that_there_is_not_is_refused_by_name(name: str) -> None:
    with pytest.raises(logs.LogSettingError, match=f"{name} must be one of "):
        logs.configure_from({name: "loud"})


def test_the_short_way_writes_the_same_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("gateway.x").info("connect", session="s_1", n=1)
    logs.info("gateway.x", "connect", session="s_1", n=1)
    long, short = map(json.loads, stream.getvalue().splitlines())
    first, second = (datetime.fromisoformat(line.pop("timestamp")) for line in (long, short))
    assert first <= second
    assert first.utcoffset() == second.utcoffset() == timedelta(0)
    assert long == short
    logs.configure("warning", "json", stream)
    logs.info("gateway.x", "connect")
    assert len(stream.getvalue().splitlines()) == 2


def test_lines_of_one_turn_are_written_at_its_end_whatever_became_of_the_loop_before() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)

    async def turn() -> None:
        logs.info("gateway.x", "one")
        logs.info("gateway.x", "two")
        assert stream.getvalue() == ""
        await asyncio.sleep(0)
        assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["one", "two"]
        logs.info("gateway.x", "left behind")

    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(turn())
        loop.close()
        stream.seek(0)
        stream.truncate()


def test_the_short_way_is_for_people_too() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logs.info("gateway.x", "connect", session="s_1")
    assert "session=s_1" in stream.getvalue()


async def test_lines_of_one_turn_are_written_together() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logs.info("gateway.x", "connect", session="s_1")
    logs.info("gateway.x", "connect", session="s_2")
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert [json.loads(line)["session"] for line in stream.getvalue().splitlines()] == ["s_1", "s_2"]


def test_lines_of_a_loop_that_ended_first_come_with_the_next() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)

    async def last_words() -> None:
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        logs.info("gateway.x", "close", session="s_1")

    loop = asyncio.new_event_loop()
    with contextlib.suppress(RuntimeError):
        loop.run_until_complete(last_words())
    loop.close()
    logs.info("gateway.x", "connect", session="s_2")
    assert len(stream.getvalue().splitlines()) == 2
