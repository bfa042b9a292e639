"""One log, one form, no secrets from tracebacks."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import logging
import os
import re
import select
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import IO

import pytest
import structlog

from sync.state import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level = root.handlers[:], root.level
    uvicorn.setLevel(logging.NOTSET)  # a server of another test in this process may have set it
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs._lines = None
    logs._queued = None


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


# A reader that stops reading.


@pytest.fixture
def pipe() -> Iterator[tuple[int, IO[str]]]:
    """A pipe that holds 4 KiB."""
    reader, descriptor = os.pipe()
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(descriptor, "w") as writer:
        yield reader, writer
    os.close(reader)


@pytest.mark.parametrize("form", logs.FORMS)
def test_a_reader_that_stops_costs_lines_and_nobodys_time(
    pipe: tuple[int, IO[str]], form: logs.Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "QUEUE_MAX_BYTES", 20_000)
    reader, writer = pipe
    written = 1000
    logs.configure("info", form, writer)
    for number in range(written):
        structlog.get_logger("gateway.x").info("line", number=number, pad="x" * 80)
    assert written / 2 < logs.dropped() < written
    dropped = logs.dropped()

    found, noticed = "", 0
    while noticed < dropped:
        found += os.read(reader, 65_536).decode()
        noticed = sum(map(int, re.findall(r'(?:count=|"count":)(\d+)[ ,]', found)))
    assert noticed == dropped
    kept = [line for line in found.splitlines() if "pad" in line]
    assert len(kept) + dropped == written
    if form == "json":
        numbers = [line["number"] for line in map(json.loads, found.splitlines()) if line["event"] == "line"]
        assert numbers == sorted(numbers)
    assert logs._queued is not None
    logs._queued.finish(5)


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, descriptor = os.pipe()
    with os.fdopen(descriptor, "w") as writer:
        stream = logs.QueuedStream(writer, str)
        os.close(reader)
        stream.write("nobody hears\n")
        stream.finish(5)
        assert stream._waiting_bytes == 0


def test_a_process_does_not_wait_for_its_reader_for_ever(pipe: tuple[int, IO[str]]) -> None:
    reader, writer = pipe
    stream = logs.QueuedStream(writer, str)
    for _ in range(100):
        stream.write("x" * 100 + "\n")
    started = time.monotonic()
    stream.finish(0.1)
    assert 0.1 <= time.monotonic() - started < 5
    while stream._waiting_bytes:
        # The writer counts its bytes off only after they can be read: a plain read could wait for nothing.
        if select.select([reader], [], [], 0.01)[0]:
            os.read(reader, 65_536)


# Lines that anybody can cause.


def test_lines_that_clients_cause_are_few_and_say_how_many_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    for number in range(1000):
        logs.limited("gateway.x", "nack", number=number)
    found = lines(stream)
    assert [line["number"] for line in found] == list(range(logs.LIMITED_BURST))
    assert {line["level"] for line in found} == {"warning"}
    now += logs.LIMITED_EVERY_S
    for number in range(1000):
        logs.limited("gateway.x", "nack", number=number)
    (last,) = lines(stream)[len(found) :]
    assert (last["number"], last["left_out"]) == (0, 1000 - logs.LIMITED_BURST)
    # Each event has lines of its own.
    logs.limited("gateway.x", "other", level="error", number=1)
    logs.limited("gateway.y", "nack", number=2)
    assert [(line["logger"], line["level"]) for line in lines(stream)[-2:]] == [
        ("gateway.x", "error"),
        ("gateway.y", "warning"),
    ]
