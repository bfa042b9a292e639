"""`python -m gateway.server`: checks the settings and the store, binds the port, and serves until a stop signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

import structlog
import uvicorn
from starlette.types import ASGIApp

from gateway import app
from gateway.errors import GatewayError
from gateway.server import descriptors
from gateway.server.listening import listen
from gateway.server.protocols import LimitedHttpProtocol
from gateway.server.server import Server
from gateway.server.supervisor import EXIT_SETTINGS, exit_if_died, run_supervised, spare_collector
from gateway.settings import GatewaySettings, SettingsError
from gateway.ws.session_socket import SessionSocket
from sync.process import logs, parent_watch
from sync.store.checks.inspection import SchemaError, UnfitStoreError, check_start
from sync.store.redis.connect import connect

log = structlog.get_logger("gateway.server")

BACKLOG = 4096

WORKER_ANSWER_S = 30
"""Seconds without an answer after which the supervisor kills a worker as hung; starting counts, too. uvicorn's default
of five seconds is too short to start a worker on a busy or small machine."""

WORKERS_MAX = 256
"""Maximum WEB_CONCURRENCY. A larger value is taken for a mistake."""


def configuration(
    settings: GatewaySettings, *, workers: int = 1, factory: Callable[[], ASGIApp] | str = "gateway.app:create_app"
) -> uvicorn.Config:
    """Return uvicorn's configuration of a web process."""
    return uvicorn.Config(
        factory,
        factory=True,
        host=settings.host,
        port=settings.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=LimitedHttpProtocol,
        ws=SessionSocket,
        lifespan="on",
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # a float works too
        timeout_graceful_shutdown=5,
        timeout_worker_healthcheck=WORKER_ANSWER_S,
    )


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= WORKERS_MAX:
        raise SettingsError([f"WEB_CONCURRENCY: must be a number of processes, 1 to {WORKERS_MAX}"])
    return int(text)


async def _check_store(settings: GatewaySettings) -> None:
    """Check that the store is usable. An unreachable store and the embedded one pass.

    Raises:
        StoreUrlError: the store's URL cannot be used.
        UnfitStoreError: the store would lose data.
        SchemaError: the store's data needs a newer build.
    """
    if url := settings.redis_url.get_secret_value():
        async with contextlib.aclosing(connect(url, prefix=settings.prefix).store) as store:
            await check_start(store, dev=settings.dev)


def main() -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP.

    Exits with EXIT_SETTINGS and one line if the configuration is wrong, with EXIT_DIED if a task of the process failed.
    """
    try:
        settings = GatewaySettings.from_env(os.environ)
        workers = _workers(os.environ.get("WEB_CONCURRENCY", "").strip() or "1")
        descriptors.raise_limit()
        app.check(os.environ)
        asyncio.run(_check_store(settings))
        sockets = listen(settings.host, settings.port)
        logs.configure(settings.log_level, settings.log_format)
        if settings.dev_insecure_host:
            log.error("INSECURE: development mode may be reached from other machines", host=settings.host)
        parent_watch.watch(settings.watch_pid)
        config = configuration(settings, workers=workers)
        if workers > 1:
            sys.exit(run_supervised(config, sockets))
        spare_collector(config)
        web = Server(config)
        web.run(sockets)
        exit_if_died(web)
    except (GatewayError, UnfitStoreError, SchemaError) as error:
        print(f"planwire: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
