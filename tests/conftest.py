"""Fixtures for every test: a real store of its own, and a connection to it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sync.store.redis.connect import Connected, connect
from sync.store.store import Store
from tests.support.servers import Server, start_valkey

pytest_plugins = ("tests.support.stuck",)

# Examples have no deadline: a busy machine is slow. Under CI, `thorough` builds on Hypothesis's own profile for it.
settings.register_profile("thorough", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("thorough"), max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("thorough" if os.environ.get("CI") else "fast"))

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the processes that tests hang up would inherit SIG_IGN

ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and those that start PostgreSQL by their fixture."""
    for item in items:
        folder = item.path.relative_to(ROOT).parts[0]
        if folder in ("browser", "process"):
            item.add_marker(folder)
        if "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker("postgres")


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    """A fresh embedded Valkey, gone with the test."""
    with start_valkey() as server:
        yield server


@pytest.fixture
def store_url(valkey: Server) -> str:
    return valkey.url


@pytest.fixture
async def connected(store_url: str) -> AsyncIterator[Connected]:
    connected = connect(store_url)
    yield connected
    await connected.store.aclose()


@pytest.fixture
async def store(connected: Connected) -> Store:
    return connected.store
