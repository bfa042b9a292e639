"""What a test waits for that does not end: said on stderr, and the process that runs it ended.

pytest-timeout's own ways do not do here. A signal's exception is swallowed by an idle uvloop, and elsewhere what cleans
up may wait for the same thing once more: the run would hang for good. Its thread tells of threads alone, which are all
in the event loop, and tells it where nobody reads what a worker of pytest-xdist says.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
import os
import threading
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

import pytest

STDERR = pytest.StashKey[int]()
TIMER = pytest.StashKey[threading.Timer]()

LAST_RESORT_S = 15.0
"""How much later a process is ended that lets no thread of Python's say anything."""


class Settings(Protocol):
    """What pytest-timeout knows of a test, as far as it is needed here. timeout: seconds."""

    timeout: float


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr: while a test runs, what is written to it is captured."""
    config.stash[STDERR] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool:
    """In place of pytest-timeout's own; it calls this around setup, test and teardown together."""
    timer = threading.Timer(settings.timeout, give_up, (item.nodeid, settings.timeout, item.config.stash[STDERR]))
    timer.daemon = True
    timer.start()
    item.stash[TIMER] = timer
    faulthandler.dump_traceback_later(settings.timeout + LAST_RESORT_S, exit=True, file=item.config.stash[STDERR])
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    timer = item.stash.get(TIMER, None)
    if timer is not None:
        timer.cancel()
        timer.join()
    faulthandler.cancel_dump_traceback_later()
    return True


def give_up(test: str, after_s: float, stderr: int) -> NoReturn:
    """Say on `stderr` where every thread and every asyncio task stands, and end this process.

    pytest-xdist then reports the test as failed, and starts another process for those left.
    """
    try:
        _write(stderr, f"\n\n{test} has not ended after {after_s:g} s\n")
        faulthandler.dump_traceback(stderr)
        for thing in gc.get_objects():
            if issubclass(type(thing), asyncio.Task) and not thing.done():
                where = traceback.StackSummary.from_list(list(_awaited(thing))).format()
                _write(stderr, f"\n{thing!r}\n{''.join(where)}")
    finally:
        os._exit(1)


def _awaited(task: asyncio.Task[Any]) -> Iterator[traceback.FrameSummary]:
    """Where a task that waits stands, outermost first; `Task.get_stack` gives only the first of them."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        for kind in ("cr", "ag", "gi"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
                waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:  # a step of an asynchronous generator keeps that to itself; a future waits for nobody
            waiting = next((thing for thing in gc.get_referents(waiting) if inspect.isasyncgen(thing)), None)


def _write(to: int, text: str) -> None:
    os.write(to, text.encode(errors="replace"))
