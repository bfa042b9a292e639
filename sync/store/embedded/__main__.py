"""`python -m sync.store.embedded`: the `store` process. Exit status 0 after a signal, 2 if the store cannot start."""

import asyncio
import os
import sys

from sync.core.errors import SyncError
from sync.process import logs, parent_watch
from sync.process.settings import StoreSettings
from sync.process.supervisor import on_stop_signal
from sync.store.embedded.server import serve


async def main() -> None:
    """Run the `store` process until SIGTERM, SIGINT or SIGHUP, or until the process in PLANWIRE_WATCH_PID has ended.

    Raises:
        SyncError: a setting is wrong, or the store cannot be started.
    """
    settings = StoreSettings.from_env(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    done = asyncio.Event()
    on_stop_signal(done.set)
    parent_watch.watch(settings.watch_pid)
    async with serve(settings.data_dir, durable=settings.durable) as url:
        print(f"store up: {url}", flush=True)
        await done.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SyncError as problem:
        print(f"store: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
