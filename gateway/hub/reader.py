"""Reads a live topic without a socket: what HTTP requests and event streams wait on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.hub.topic import LiveTopic


class TopicReader:
    """One reader of a topic, which stays live while the context is open.

    Attributes:
        latest: the topic, from entering the context on.
    """

    latest: LiveTopic

    def __init__(self, retain: Callable[[], LiveTopic], release: Callable[[LiveTopic], None]) -> None:
        self._retain = retain
        self._release = release

    async def __aenter__(self) -> TopicReader:
        self.latest = self._retain()
        self.latest.open_reader()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.latest.close_reader()
        self._release(self.latest)

    async def newer_than(self, version: int, timeout_s: float) -> LiveTopic | None:
        """Return the topic once it is known and newer than `version` (-1: once it is known); None on timeout."""
        live = self.latest
        try:
            async with asyncio.timeout(timeout_s):
                while not (live.known and live.version > version):
                    await live.changed()
        except TimeoutError:
            return None
        return live
