"""A test that does not end is told of and ends, wherever it stands: also where pytest-timeout's own ways fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ("-p", "tests.support.stuck", "-p", "no:randomly", "-p", "no:cacheprovider")
MODULE = """
import asyncio
import contextlib
import time

import pytest
import uvloop


async def never():
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def cleans_up_for_ever():
    try:
        yield
    finally:
        try:
            await never()
        finally:
            await never()


@pytest.fixture
def runner():
    with asyncio.Runner(loop_factory=LOOP) as runner:
        yield runner


async def body():
    async with cleans_up_for_ever():
        pass


def test_idle(runner):
    runner.run(never())


def test_cleanup(runner):
    runner.run(body())


def test_thread():
    time.sleep(600)


def test_that_ends(runner):
    runner.run(asyncio.sleep(0))
"""


@pytest.mark.parametrize("loop", ["uvloop.new_event_loop", "asyncio.new_event_loop"])
@pytest.mark.parametrize("test", ["idle", "cleanup", "thread"])
def test_one_that_does_not_end_is_told_of(tmp_path: Path, test: str, loop: str) -> None:
    (tmp_path / "test_it.py").write_text(MODULE.replace("LOOP", loop))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, "-c", os.devnull, "--timeout", "0.5", "-k", f"ends or {test}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1
    assert f"test_it.py::test_{test} has not ended after 0.5 s" in ended.stderr
    where = {"idle": "in never\n", "cleanup": "in cleans_up_for_ever\n", "thread": "in test_thread\n"}
    assert where[test] in ended.stderr
