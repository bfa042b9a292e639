"""`python -m sync.simulator`: reads the settings, binds a loopback address, serves until SIGINT or SIGTERM.

Exit status: 0 after a signal; 2, with one line on standard error, if it cannot start.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom

import uvicorn

from sync.billing.catalog.catalog import CatalogError
from sync.billing.catalog.watcher import CatalogWatcher
from sync.core.errors import SyncError
from sync.process import logs, parent_watch
from sync.simulator import settings as from_environ
from sync.simulator.app import create_app
from sync.simulator.provider import Provider
from sync.simulator.settings import SettingError, SimulatorSettings

BACKLOG = 128
STOP_S = 3
"""Maximum time that open requests have after the signal to stop."""


def main(environ: Mapping[str, str]) -> int:
    """Serve; return the exit status."""
    # A signal to stop is not a failure, even during the start.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        settings = from_environ.from_env(environ)
        common = settings.common
        logs.configure(common.log_level, common.log_format)
        catalog_watcher = _catalog(common.catalog_path)
        provider = Provider(
            common.data_dir,
            lambda: catalog_watcher.current,
            settings.webhook_url,
            settings.secrets,
            lambda: time.time_ns() // 1000,
            SystemRandom(),
        )
        listener = _bind(settings)
    except SyncError as error:
        print(f"planwire simulator: {error}", file=sys.stderr)
        return 2
    parent_watch.watch(common.watch_pid)
    with listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"planwire simulator: http://{shown}:{port} -> {settings.webhook_url}", file=sys.stderr, flush=True)
        app = create_app(provider, settings.api_keys)
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_S
        )
        server = uvicorn.Server(config)
        # Set before the loop starts: an exception (sys.exit above) while uvloop starts would leave it unclosable.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])
    return 0


def _catalog(path: Path) -> CatalogWatcher:
    """Return the catalog.

    Raises:
        SettingError: it cannot be read, or is not a catalog.
    """
    try:
        return CatalogWatcher(path)
    except CatalogError as error:
        raise SettingError(f"PLANWIRE_CATALOG: {error}") from error


def _bind(settings: SimulatorSettings) -> socket.socket:
    """Return a listening socket on the settings' address.

    Raises:
        SettingError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        # With an explicit protocol, asyncio turns Nagle's algorithm off; otherwise each answer takes 40 ms longer.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise SettingError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return listener


if __name__ == "__main__":
    sys.exit(main(os.environ))
