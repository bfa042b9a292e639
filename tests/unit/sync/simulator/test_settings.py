from __future__ import annotations

from pathlib import Path

import pytest

from sync.core.errors import SyncError
from sync.simulator.settings import from_env

GOOD = {
    "PLANWIRE_SIMULATOR_URL": "http://127.0.0.1:8100",
    "PLANWIRE_PADDLE_SECRETS": "live:s1",
    "PLANWIRE_CATALOG": "/etc/catalog.toml",
}


def test_the_least_that_is_needed() -> None:
    settings = from_env(GOOD)

    assert (settings.host, settings.port) == ("127.0.0.1", 8100)
    assert settings.secrets == {"live": ("s1",)}
    assert settings.api_keys == {}
    assert settings.webhook_url == "http://127.0.0.1:8000/webhooks/paddle"
    assert (settings.common.catalog_path, settings.common.data_dir) == (Path("/etc/catalog.toml"), Path(".planwire"))
    assert settings.common.watch_pid == 0


def test_everything_set() -> None:
    settings = from_env(
        {
            "PLANWIRE_SIMULATOR_URL": "http://[::1]:0",
            "PLANWIRE_PADDLE_SECRETS": "live:a, sandbox:b:c,live:d",
            "PLANWIRE_PADDLE_API_KEYS": "live:k",
            "PLANWIRE_WEBHOOK_URL": "http://127.0.0.1:9/hook",
            "PLANWIRE_CATALOG": "/etc/catalog.toml",
            "PLANWIRE_DATA_DIR": "/var/lib/planwire",
            "PLANWIRE_WATCH_PID": "42",
            "PORT": "1234",
        }
    )

    assert (settings.host, settings.port) == ("::1", 0)
    assert settings.secrets == {"live": ("a", "d"), "sandbox": ("b:c",)}
    assert settings.api_keys == {"live": ("k",)}
    assert settings.webhook_url == "http://127.0.0.1:9/hook"
    assert (settings.common.data_dir, settings.common.watch_pid) == (Path("/var/lib/planwire"), 42)


def test_the_webhook_is_the_web_process_s() -> None:
    assert from_env(GOOD | {"PORT": "9100"}).webhook_url == "http://127.0.0.1:9100/webhooks/paddle"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLANWIRE_SIMULATOR_URL", ""),
        ("PLANWIRE_SIMULATOR_URL", "http://127.0.0.1"),
        ("PLANWIRE_SIMULATOR_URL", "https://127.0.0.1:1"),
        ("PLANWIRE_SIMULATOR_URL", "http://127.0.0.1:99999"),
        ("PLANWIRE_SIMULATOR_URL", "http://0.0.0.0:8100"),
        ("PLANWIRE_SIMULATOR_URL", "http://example.com:8100"),
        ("PLANWIRE_PADDLE_SECRETS", ""),
        ("PLANWIRE_PADDLE_SECRETS", " , "),
        ("PLANWIRE_PADDLE_SECRETS", "pdl_ntfset_secret"),
        ("PLANWIRE_PADDLE_API_KEYS", "key"),
        ("PLANWIRE_WEBHOOK_URL", "127.0.0.1/hook"),
        ("PLANWIRE_WATCH_PID", "-1"),
        ("PLANWIRE_CATALOG", ""),
        ("PLANWIRE_COLOUR", "red"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(name: str, value: str) -> None:
    with pytest.raises(SyncError) as error:
        from_env(GOOD | {name: value})

    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert "pdl_ntfset" not in str(error.value)
