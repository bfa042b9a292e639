"""The event loop of production, for tests that look at when things happen. A conftest imports the hook from here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the one loop that the folder's tests run on."""
    return {"uvloop": uvloop.new_event_loop}
