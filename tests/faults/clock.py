"""The store's clock, which a test can set: libfaketime in front of the server, told by a file how far it is off.

The server alone is fooled, and only about the time of day: what it measures by its monotonic clock stays true.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sync.store.store import Store
from tests.support.wait import until

PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
"""Where Debian and others keep it."""

LACKING = "no libfaketime (Debian: apt-get install faketime)"

ACCURACY_S = 2.0
"""Of a jump, when looked at a moment later."""


def library(engine: str) -> Path | None:
    """Return where the libfaketime is that an engine's server starts with, None where there is none.

    Debian's redis-server does not: its allocator asks for the time before the library can tell it.
    """
    if engine == "redis" or not sys.platform.startswith("linux"):
        return None
    root = Path("/")
    return next((path for place in PLACES for path in sorted(root.glob(place[1:]))), None)


class Clock:
    """The clock of the server that is started with `environ`."""

    def __init__(self, library: Path, folder: Path) -> None:
        """Keep the offset in `folder`."""
        self._file = folder / "clock"
        self._set(0)
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds until the file is read again; without, it is read at every look
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def _set(self, offset_s: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        os.replace(new, self._file)  # never read half written

    async def jump(self, store: Store, offset_s: int) -> None:
        """Set the store's clock so many seconds off ours, and return once it goes by that."""
        self._set(offset_s)

        async def is_there() -> bool:
            seconds, microseconds = await store.redis.time()
            return abs(seconds + microseconds / 1e6 - time.time() - offset_s) < ACCURACY_S

        await until(is_there, timeout_s=40)
