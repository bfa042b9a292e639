"""What the simulator needs of the settings of `sync`: where to listen, whom to tell, with which secrets. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from sync.core.errors import SyncError
from sync.process import environment
from sync.process.logs import Form, Level
from sync.settings import SyncSettings

WEB_PORT = "8000"
"""The web process's port where `PORT` does not say another."""


class SettingError(SyncError):
    """A setting of the simulator is missing or cannot be used; the text names it and says what it should be."""


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """`secrets` and `api_keys`: environment -> its values; `watch_pid`: 0 for no process to leave with."""

    host: str
    port: int
    webhook_url: str
    secrets: Mapping[str, tuple[str, ...]]
    api_keys: Mapping[str, tuple[str, ...]]
    catalog_path: Path
    data_dir: Path
    watch_pid: int
    log_level: Level = "info"
    log_format: Form = "json"


def from_env(environ: Mapping[str, str]) -> SimulatorSettings:
    """The settings in `environ`.

    Raises:
        SettingError: there is nowhere to listen that is loopback, or no secret to sign with.
        SettingsError: a setting has the wrong form, or a name is unknown.
    """
    settings = SyncSettings.from_env(environ)
    host, port = _address(settings.simulator_url)
    paddle = settings.providers["paddle"]
    if not paddle.secrets:
        raise SettingError("PLANWIRE_PADDLE_SECRETS is not set: the simulator signs webhooks with it, as live:SECRET")
    return SimulatorSettings(
        host,
        port,
        settings.webhook_url or f"http://127.0.0.1:{environment.value(environ, 'PORT', WEB_PORT)}/webhooks/paddle",
        _by_env(paddle.secrets),
        _by_env(paddle.api_keys),
        settings.catalog_path,
        settings.data_dir,
        settings.watch_pid,
        settings.log_level,
        settings.log_format,
    )


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.scheme != "http":
        raise SettingError("PLANWIRE_SIMULATOR_URL must say where to listen, such as http://127.0.0.1:8100")
    if not _is_loopback(host):
        raise SettingError(f"PLANWIRE_SIMULATOR_URL names {host}: the simulator listens on loopback only")
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _by_env(pairs: tuple[tuple[str, SecretStr], ...]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value.get_secret_value())
    return found
