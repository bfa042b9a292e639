"""The environment, the port and the lock of a local run."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from gateway.dev import run
from gateway.dev.run import DevError


def test_processes_get_secrets_addresses_and_defaults_and_the_environment_wins(tmp_path: Path) -> None:
    given = {"PATH": "/bin", "PLANWIRE_LOG_LEVEL": "debug", "PLANWIRE_DEV": "0", "PLANWIRE_CONSOLE_TOKEN": ""}
    found = run.process_environ(given, tmp_path, 8123)
    assert (found["PORT"], found["PLANWIRE_DEV"], found["PLANWIRE_LOG_LEVEL"]) == ("8123", "1", "debug")
    assert found["PLANWIRE_WEBHOOK_URL"] == "http://127.0.0.1:8123/webhooks/paddle"
    assert found["PLANWIRE_PADDLE_API_URL"] == found["PLANWIRE_SIMULATOR_URL"]
    assert found["PLANWIRE_WATCH_PID"] == str(os.getpid())
    assert found["PATH"].endswith(f"{os.pathsep}/bin")
    assert len(found["PLANWIRE_JWT_SECRET"]) >= 32
    assert Path(found["PLANWIRE_CATALOG"]).is_file()
    again = run.process_environ(given, tmp_path, 8124)
    assert again["PLANWIRE_JWT_SECRET"] == found["PLANWIRE_JWT_SECRET"]


@pytest.mark.parametrize("text", ["x", "65536", "-1", "8 0"])
def test_a_port_that_is_none_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(DevError) as raised:
        run._port(text)
    assert raised.value.status == 2


def test_a_port_is_free_or_the_error_says_what_to_do() -> None:
    assert run._port("") == run.DEFAULT_PORT
    assert run._checked_port(0) in run.OWN_PORTS
    with socket.create_server((run.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DevError, match=f"PORT={port + 1} make run"):
            run._checked_port(port)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "was ended by SIGKILL"),
        (143, "was ended by SIGTERM"),
    ],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert run._ending(code) == text


def test_a_second_run_on_a_directory_names_the_first(tmp_path: Path) -> None:
    with run._lock(tmp_path) as lock:
        lock.write(json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}))
        lock.flush()
        with pytest.raises(DevError, match=rf"already running on .*: http://127.0.0.1:1 \(pid {os.getpid()}\)"):
            run._lock(tmp_path)
    with run._lock(tmp_path):
        pass


def test_a_run_that_has_not_written_its_lock_yet_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PREDECESSOR_S", 0.0)
    with run._lock(tmp_path), pytest.raises(DevError, match="another run is starting"):
        run._lock(tmp_path)
