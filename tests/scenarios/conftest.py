"""Fixtures of the scenarios: a system on a store of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.system import System, run_system


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    """A gateway with its webhook door, on a fresh store; without a worker and without a provider to ask."""
    async with run_system(store_url, tmp_path) as system:
        yield system
