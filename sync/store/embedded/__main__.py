"""`python -m sync.store.embedded`: the `store` process. Exit status 0 after a signal, 2 if the store cannot start."""

import asyncio
import os
import sys

from sync.core.errors import SyncError
from sync.process import environment, logs, parent_watch
from sync.process.stop_signals import stop_signals
from sync.store.embedded.data_dir import DEFAULT_DATA_DIR, EmbeddedError
from sync.store.embedded.server import serve

_ON, _OFF = frozenset(("1", "true", "t", "yes", "y", "on")), frozenset(("0", "false", "f", "no", "n", "off"))
"""Spellings of a boolean setting; the settings models accept the same."""


async def main() -> None:
    """Run the `store` process until SIGTERM, SIGINT or SIGHUP, or until the process in PLANWIRE_WATCH_PID has ended.

    Raises:
        SyncError: a misspelt setting, or the store cannot be started.
    """
    environ = environment.read(os.environ)
    logs.configure_from(environ)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, done.set)
    parent_watch.watch_from(environ)
    data_dir = environment.value(environ, "PLANWIRE_DATA_DIR", DEFAULT_DATA_DIR)
    durable = environment.value(environ, "PLANWIRE_DURABLE", "0").lower()
    if durable not in _ON | _OFF:
        raise EmbeddedError("PLANWIRE_DURABLE: must be 1 or 0")
    async with serve(data_dir, durable=durable in _ON) as url:
        print(f"store up: {url}", flush=True)
        await done.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (SyncError, ValueError) as problem:
        print(f"store: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
