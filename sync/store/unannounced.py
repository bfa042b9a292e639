"""Counts commits that the store did not announce, as for a user without rights to the channels.

The commit stands. Tabs learn of it by a gateway's next sweep, and no gateway reports itself as fresh meanwhile: its own
canaries are not announced either.
"""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger()

LOG_EVERY_S = 10.0
"""Minimum time between two log lines: without the rights every commit would write one."""


class Unannounced:
    """The unannounced commits of one process.

    Attributes:
        count: their number so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._logged_at = float("-inf")

    def note(self, topic: str, error: str) -> None:
        """Count one."""
        self.count += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.error("commit_unannounced", topic=topic, error=error, count=self.count)
