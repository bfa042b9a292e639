"""The simulator's settings: its address, the webhook's URL, and the secrets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from sync.billing.providers.settings import is_confidential
from sync.core.errors import SyncError
from sync.settings import SyncSettings

WEB_PORT = "8000"
"""The web process's port if `PORT` is not set."""


class SettingError(SyncError):
    """A setting of the simulator is missing or cannot be used; the text has its name and the expected value."""


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The simulator's settings. `common`: those of every process. `secrets`, `api_keys`: environment -> its values."""

    host: str
    port: int
    webhook_url: str
    secrets: Mapping[str, tuple[str, ...]]
    api_keys: Mapping[str, tuple[str, ...]]
    common: SyncSettings


def from_env(environ: Mapping[str, str]) -> SimulatorSettings:
    """Return the settings in `environ`.

    Raises:
        SettingError: the address is not a loopback address, or there is no signing secret.
        SettingsError: a setting has the wrong form, or a name is unknown.
    """
    settings = SyncSettings.from_env(environ)
    url = urlsplit(settings.simulator_url)
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if url.scheme != "http" or host is None or port is None:
        raise SettingError("PLANWIRE_SIMULATOR_URL must say where to listen, such as http://127.0.0.1:8100")
    if not is_confidential(settings.simulator_url):
        raise SettingError(f"PLANWIRE_SIMULATOR_URL names {host}: the simulator listens on loopback only")
    paddle = settings.providers["paddle"]
    if not paddle.secrets:
        raise SettingError("PLANWIRE_PADDLE_SECRETS is not set: the simulator signs webhooks with it, as live:SECRET")
    web_port = environ.get("PORT", "").strip() or WEB_PORT
    return SimulatorSettings(
        host,
        port,
        settings.webhook_url or f"http://127.0.0.1:{web_port}/webhooks/paddle",
        _by_env(paddle.secrets),
        _by_env(paddle.api_keys),
        settings,
    )


def _by_env(pairs: tuple[tuple[str, SecretStr], ...]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value.get_secret_value())
    return found
