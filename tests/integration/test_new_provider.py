"""A provider is a folder and a line: one that is registered is served, without a word about it anywhere else."""

from __future__ import annotations

import hashlib
import hmac
import time
from pathlib import Path

import httpx2
import orjson
import pytest
from click.testing import CliRunner
from starlette.applications import Starlette

from gateway import cli
from gateway.cli import settings_reference
from sync import bootstrap
from sync.billing.api import routes as billing_routes
from sync.billing.providers import registry
from sync.settings import SettingsError, SyncSettings
from sync.store.store import Store
from tests.support.acme import ACME

SECRET = "a-secret-of-acme"
CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
[plans.pro]
name = "Pro"
rank = 10
prices.acme.live = ["price_pro"]
"""
BODY = orjson.dumps(
    {
        "id": "evt_1",
        "type": "subscription.changed",
        "version": 5,
        "tenant": "acme",
        "subscription": {"id": "sub_1", "items": [{"price": {"id": "price_pro"}, "quantity": 2}]},
    }
)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setitem(registry.PROVIDERS, "acme", ACME)
    (tmp_path / "catalog.toml").write_text(CATALOG)
    return {
        "PLANWIRE_ACME_SECRETS": f"live:{SECRET}",
        "PLANWIRE_PADDLE_SECRETS": "live:a-secret-of-paddle",
        "PLANWIRE_CATALOG": str(tmp_path / "catalog.toml"),
    }


def signed(secret: str) -> dict[str, str]:
    at = int(time.time())
    mac = hmac.new(secret.encode(), b"%d\n" % at + BODY, hashlib.sha256).hexdigest()
    return {"Acme-Signature": f"at={at},mac={mac}"}


async def test_its_webhooks_are_verified_parsed_and_committed(store: Store, environ: dict[str, str]) -> None:
    settings = SyncSettings.from_env(environ)
    services = await bootstrap.build_services(store, settings)
    transport = httpx2.ASGITransport(app=Starlette(routes=billing_routes.routes(services, settings)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://intake") as http:
        # The secret of one provider opens nothing at another.
        refused = await http.post("/webhooks/acme", content=BODY, headers=signed("a-secret-of-paddle"))
        answer = await http.post("/webhooks/acme", content=BODY, headers=signed(SECRET))
    assert refused.status_code == 403
    assert answer.json()["outcome"] == "applied"
    assert orjson.loads((await store.read("tenant:acme")).state)["plan"]["key"] == "pro"


async def test_without_secrets_of_its_own_it_is_not_served(store: Store, environ: dict[str, str]) -> None:
    del environ["PLANWIRE_ACME_SECRETS"]
    settings = SyncSettings.from_env(environ)
    services = await bootstrap.build_services(store, settings)
    assert [route.path for route in billing_routes.routes(services, settings)] == ["/webhooks/paddle"]


def test_its_settings_are_read_and_checked(environ: dict[str, str]) -> None:
    settings = SyncSettings.from_env(environ | {"PLANWIRE_ACME_TOLERANCE_S": "9", "PLANWIRE_ACME_API_KEYS": "demo:key"})
    assert settings.providers["acme"].tolerance_s == 9
    assert settings.billed_environments == {"live", "demo"}
    with pytest.raises(SettingsError, match="did you mean PLANWIRE_ACME_SECRETS"):
        SyncSettings.from_env(environ | {"PLANWIRE_ACME_SECRET": "x"})
    assert "PLANWIRE_ACME_SECRETS" in {setting.name for setting in settings_reference.everything()}


def test_the_command_line_lists_it(environ: dict[str, str]) -> None:
    names = list(registry.PROVIDERS)
    assert names[-1] == "acme"
    assert f"{{{'|'.join(names)}}}" in CliRunner().invoke(cli.cli, ["backfill", "--help"]).output
    refused = CliRunner().invoke(cli.cli, ["backfill", "chargebee"])
    assert f"is not one of {', '.join(map(repr, names))}" in refused.output
