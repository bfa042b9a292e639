"""Fixtures for every test: a real store of its own, and a connection to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sync.store.redis.connect import Connected, connect
from sync.store.store import Store
from tests.support.servers import Server, start_valkey

pytest_plugins = ("tests.support.stuck",)

# Properties are judged by what comes out, not by how long an example takes on a busy machine. This is on top of the
# profile in force: under CI, Hypothesis's own for it.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


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
