"""Counts commits that the store would not announce, as for a user without rights to the channels.

What was committed stands. Tabs learn of it by a gateway's next sweep instead of at once, and no gateway calls itself
fresh meanwhile: its own canaries are not announced either.
"""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger()

LOG_EVERY_S = 10.0
"""The least time between two log lines: while the rights are missing, each commit is one of these."""


class Unannounced:
    """Those of one process. `count`: how many there were so far."""

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
