"""A store whose clock a test can set: the server runs under libfaketime, which reads the clock's offset from a file.

Only the server's wall clock is changed; its monotonic clock stays true.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sync.store.store import Store
from tests.support.wait import until

PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
"""Paths of libfaketime on Debian and other systems."""

LACKING = "no libfaketime (Debian: apt-get install faketime)"

ACCURACY_S = 2.0
"""Tolerance, in seconds, when a jump is checked a moment later."""


def library(engine: str) -> Path | None:
    """Return the path of a libfaketime with which an engine's server starts, or None.

    Debian's redis-server does not start with it: its allocator reads the time before the library is ready.
    """
    if engine == "redis" or not sys.platform.startswith("linux"):
        return None
    root = Path("/")
    return next((path for place in PLACES for path in sorted(root.glob(place[1:]))), None)


class Clock:
    """The clock of a server that is started with `environ`."""

    def __init__(self, library: Path, folder: Path) -> None:
        """Keep the offset in `folder`."""
        self._file = folder / "clock"
        self._set(0)
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds between reads of the file; default: read at every call
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def _set(self, offset_s: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        os.replace(new, self._file)  # replaced atomically, so it is never read half written

    async def jump(self, store: Store, offset_s: int) -> None:
        """Set the store's clock `offset_s` seconds off ours, and return once the store uses it."""
        self._set(offset_s)

        async def is_there() -> bool:
            seconds, microseconds = await store.redis.time()
            return abs(seconds + microseconds / 1e6 - time.time() - offset_s) < ACCURACY_S

        await until(is_there, timeout_s=40)
