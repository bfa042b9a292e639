"""`make run`: the whole system on this machine, from `Procfile.dev`, with generated secrets where none are given.

It prepares the environment, locks the data directory, checks the port, and starts the Procfile runner.
Development only: it sets PLANWIRE_DEV=1, which opens the demo and allows loopback origins.

    python -m gateway.dev [--procfile FILE] [--with-parent]

Exit status: 0 after SIGINT or SIGTERM, 1 if it cannot run here or a process ended by itself, 2 for a wrong setting.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gateway.dev import dev_env
from gateway.errors import GatewayError
from sync.core.errors import SyncError
from sync.process import environment, parent_watch

if TYPE_CHECKING:
    from gateway.dev.procfile import Screen

HOST = "127.0.0.1"
DEFAULT_PORT = 8000
ROOT = Path(__file__).resolve().parents[2]
PROCFILE = ROOT / "Procfile.dev"
CATALOG = Path(__file__).with_name("catalog.toml")
"""What the demo and the simulator sell, unless PLANWIRE_CATALOG says otherwise."""
PAGES = (("demo", "/demo"), ("console", "/console"))
"""Pages announced below the ready line: (name, path)."""
OWN_PORTS = range(20_000, 30_000)
"""Candidates for a free port, below the range of outgoing connections, which could take a port between two runs."""
PORT_ATTEMPTS = 50
READY_POLL_S = 0.05
READY_TIMEOUT_S = 60.0
"""Seconds after which a system that is not ready is reported, in one line."""
PREDECESSOR_S = 10.0
"""Seconds that the processes of a killed runner may take to end."""


class DevError(GatewayError):
    """The system cannot run here. The text says why and what to do; `status` is the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def main(argv: Sequence[str] = ()) -> int:
    """Run until stopped, and return the exit status. `argv`: the options, without the program's name."""
    parser = argparse.ArgumentParser(prog="python -m gateway.dev", description="Run Planwire on this machine.")
    parser.add_argument("--procfile", type=Path, default=PROCFILE, help="what to run (default: %(default)s)")
    parser.add_argument("--with-parent", action="store_true", help="stop when the parent process is gone")
    options = parser.parse_args(argv)
    parent = os.getppid() if options.with_parent else 0
    try:
        return _run(environment.read(os.environ), options.procfile, parent)
    except (GatewayError, SyncError) as error:
        print(f"planwire: {error}", file=sys.stderr)
        if isinstance(error, environment.SettingNameError):
            return 2
        return error.status if isinstance(error, DevError) else 1


def process_environ(environ: Mapping[str, str], data_dir: Path, port: int) -> dict[str, str]:
    """Return the processes' environment: `environ`, completed by development secrets, settings and addresses.

    Raises:
        DevEnvError: the development secrets cannot be read or written.
    """
    simulator = environ.get("PLANWIRE_SIMULATOR_URL") or f"http://{HOST}:{_free_port()}"
    values = dev_env.ensure(data_dir, {"PORT": str(port), "PLANWIRE_SIMULATOR_URL": simulator})
    # Older versions generated a console token. Without one the console of a local run needs no login.
    values.pop("PLANWIRE_CONSOLE_TOKEN", None)
    defaults = {
        "PLANWIRE_PADDLE_API_URL": simulator,
        "PLANWIRE_WEBHOOK_URL": f"http://{HOST}:{port}/webhooks/paddle",
        "PLANWIRE_CATALOG": str(CATALOG),
        "PLANWIRE_LOG_FORMAT": "text",
        "PLANWIRE_LOG_LEVEL": "warning",
        "PLANWIRE_DRAIN_S": "0.5",  # keeps stopping fast
    }
    merged = dev_env.overlay(environ, defaults | values)
    path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), environ.get("PATH", os.defpath))))
    return merged | {
        "PATH": path,  # `python` in the Procfile is this interpreter
        "PORT": str(port),
        "PLANWIRE_DATA_DIR": str(data_dir),
        "PLANWIRE_DEV": "1",
        "PLANWIRE_WATCH_PID": str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }


def _run(environ: Mapping[str, str], procfile: Path, parent: int) -> int:
    try:
        from gateway.dev.procfile import Runner, Screen, commands
    except ImportError as error:
        raise DevError(f"the Procfile runner is missing ({error.name}): pip install 'planwire[run]'") from error
    port = _port(environ.get("PORT", ""))
    processes = commands(procfile)
    data_dir = Path(environ.get("PLANWIRE_DATA_DIR") or environment.DEFAULT_DATA_DIR).expanduser().resolve()
    with _lock(data_dir) as lock:
        port = _checked_port(port)
        url = f"http://{HOST}:{port}"
        lock.seek(0)
        lock.truncate()
        lock.write(json.dumps({"url": url, "pid": os.getpid()}))
        lock.flush()
        if environ.get("PLANWIRE_REDIS_URL"):
            processes.pop("store", None)
        child_environ = process_environ(environ, data_dir, port)
        screen = Screen(sys.stdout)

        def started(runner: Runner) -> None:
            parent_watch.watch(parent)
            _announce(screen, port, lambda: runner.is_stopping)

        runner = Runner(screen, started)
        for name, command in processes.items():
            runner.add_process(name, command, env=child_environ, cwd=str(ROOT))
        status = runner.run()
        ended = "" if runner.ended is None else f": {runner.ended[0]} {_ending(runner.ended[1])}"
        screen.say(f"planwire stopped{ended}")
        return status


def _ending(code: int) -> str:
    """Return how a process ended, as text. A shell in between reports 128 + signal number."""
    number = -code if code < 0 else code - 128
    names = {item.value: item.name for item in signal.Signals}
    return f"was ended by {names[number]}" if number in names else f"ended with status {code}"


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise DevError(f"PORT is not a TCP port: {text!r}", 2)
    return int(text)


def _checked_port(port: int) -> int:
    """Return `port` after checking that it is free; for 0 return any free port."""
    if port == 0:
        return _free_port()
    try:
        with socket.create_server((HOST, port)):
            return port
    except PermissionError as error:
        raise DevError(f"port {port} needs more rights: choose one above 1023, such as PORT=8000 make run") from error
    except OSError as error:
        raise DevError(
            f"port {port} is taken by another program: stop that, or choose another, such as PORT={port + 1} make run"
        ) from error


def _free_port() -> int:
    for port in random.sample(OWN_PORTS, PORT_ATTEMPTS):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise DevError(
        f"no free port found from {OWN_PORTS.start} to {OWN_PORTS.stop - 1}: name one, such as PORT=8000 make run"
    )


def _lock(data_dir: Path) -> TextIO:
    """Return the locked `run.lock` file of the data directory. Closing it releases the lock.

    The file has the URL and process id of the run. Helpers of a killed runner keep the lock until they end, so this
    waits up to PREDECESSOR_S for them.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.fdopen(os.open(data_dir / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    except OSError as error:
        raise DevError(f"PLANWIRE_DATA_DIR: {data_dir} cannot be used: {error}", 2) from error
    deadline = time.monotonic() + PREDECESSOR_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            url, pid = _holder(lock)
            if (pid is not None and not parent_watch.wait_for(pid, 0)) or time.monotonic() > deadline:
                lock.close()
                raise DevError(_already(data_dir, url, pid)) from None
            time.sleep(READY_POLL_S)
        except OSError as error:
            lock.close()
            raise DevError(f"the data directory {data_dir} cannot be locked: {error}") from error


def _holder(lock: TextIO) -> tuple[str, int | None]:
    """Return URL and process id of the run that holds the lock; ("", None) if it has not written them yet."""
    lock.seek(0)
    try:
        found = json.loads(lock.read())
        return str(found["url"]), int(found["pid"])
    except (ValueError, KeyError, TypeError):
        return "", None


def _already(data_dir: Path, url: str, pid: int | None) -> str:
    if pid is None:
        return f"another run is starting on {data_dir}: use that one, or set PLANWIRE_DATA_DIR to another directory"
    return (
        f"already running on {data_dir}: {url} (pid {pid}); "
        f"use it, stop it with `kill {pid}`, or set PLANWIRE_DATA_DIR and PORT to run a second one"
    )


def _announce(screen: Screen, port: int, is_stopping: Callable[[], bool]) -> None:
    """Announce that the system is ready. If that takes longer than READY_TIMEOUT_S, report once what is missing."""
    complain_at = time.monotonic() + READY_TIMEOUT_S
    while not is_stopping():
        missing = _missing(port)
        if not missing:
            url = f"http://{HOST}:{port}"
            screen.say("\n".join([f"planwire ready: {url}", *(f"{name}: {url}{path}" for name, path in PAGES)]))
            return
        if time.monotonic() > complain_at:
            screen.say(f"planwire is not ready after {READY_TIMEOUT_S:g} s: {missing}; still trying")
            complain_at = float("inf")
        time.sleep(READY_POLL_S)


def _missing(port: int) -> str:
    """Return an empty string if GET /readyz answers 200, else its answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(500).decode("utf-8", "replace")
        return "" if response.status == 200 else f"/readyz answers {response.status} {body}"
    except (OSError, http.client.HTTPException) as error:
        return f"/readyz: {error or type(error).__name__}"
    finally:
        connection.close()
