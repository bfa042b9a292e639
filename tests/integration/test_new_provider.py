"""A provider is a folder and a line: one that is registered is served, without a word about it anywhere else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import time
from collections.abc import Sequence
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
from tests.support.dodo import DODO
from tests.support.polar_bodies import at, signed as signed_by_standard

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


class TestStandardWebhooks:
    """A provider that sends Standard Webhooks is a parser: `tests/support/dodo.py` is all that there is of Dodo."""

    KEY = b"a key of the standard, 32 bytes."
    CATALOG = """
    [plans.free]
    name = "Free"
    rank = 0
    default = true
    limits = { seats = 1 }
    [plans.pro]
    name = "Pro"
    rank = 10
    limits = { seats = 0 }
    per_unit.limits = { seats = 1 }
    products.dodo.live = ["pdt_pro"]
    [addons.audit]
    name = "Audit"
    features = ["audit"]
    products.dodo.live = ["adn_audit"]
    """

    def body(self, kind: str, ago_s: float, **fields: object) -> bytes:
        data = {
            "payload_type": "Subscription",
            "subscription_id": "sub_1",
            "status": "active",
            "product_id": "pdt_pro",
            "quantity": 2,
            "addons": [],
            "metadata": {"tenant_id": "acme"},
            "customer": {"customer_id": "cus_1", "email": "a@example.com", "name": "A"},
            "created_at": at(500),
            "previous_billing_date": at(500),
            "next_billing_date": at(-86_400),
            "cancel_at_next_billing_date": False,
            **fields,
        }
        envelope = {"business_id": "bus_1", "type": f"subscription.{kind}", "timestamp": at(ago_s), "data": data}
        return orjson.dumps(envelope)

    async def outcomes(
        self, store: Store, directory: Path, bodies: Sequence[tuple[str, bytes]], key: bytes = KEY
    ) -> list[str]:
        """What deliveries are answered: an outcome, or the code of a problem."""
        (directory / "catalog.toml").write_text(self.CATALOG)
        environ = {
            "PLANWIRE_DODO_SECRETS": f"live:whsec_{base64.b64encode(self.KEY).decode()}",
            "PLANWIRE_CATALOG": str(directory / "catalog.toml"),
        }
        settings = SyncSettings.from_env(environ)
        services = await bootstrap.build_services(store, settings)
        transport = httpx2.ASGITransport(app=Starlette(routes=billing_routes.routes(services, settings)))
        found = []
        async with httpx2.AsyncClient(transport=transport, base_url="http://intake") as http:
            for event_id, body in bodies:
                headers = signed_by_standard(body, event_id, key)
                answer = (await http.post("/webhooks/dodo", content=body, headers=headers)).json()
                found.append(answer.get("outcome") or answer["code"])
        return found

    async def test_only_a_parser(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry.PROVIDERS, "dodo", DODO)
        bought = self.body("active", 90, addons=[{"addon_id": "adn_audit", "quantity": 1}])
        assert await self.outcomes(store, tmp_path, [("msg_1", bought)], b"a key of nobody") == ["signature_invalid"]
        deliveries = [("msg_1", bought), ("msg_1", bought), ("msg_2", self.body("on_hold", 60, status="on_hold"))]
        assert await self.outcomes(store, tmp_path, deliveries) == ["applied", "duplicate", "applied"]
        state = orjson.loads((await store.read("tenant:acme")).state)
        assert (state["plan"]["key"], state["status"], state["limits"]) == ("pro", "past_due", {"seats": 2})
        assert "audit" not in state["features"]

    async def test_in_any_order(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry.PROVIDERS, "dodo", DODO)
        for number, places in enumerate(itertools.permutations(range(3))):
            own = {"subscription_id": f"sub_{number}", "metadata": {"tenant_id": f"t{number}"}}
            bodies = [
                (f"msg_{number}_1", self.body("active", 90, **own)),
                (f"msg_{number}_2", self.body("plan_changed", 60, quantity=5, **own)),
                (f"msg_{number}_3", self.body("updated", 30, quantity=5, cancel_at_next_billing_date=True, **own)),
            ]
            await self.outcomes(store, tmp_path, [bodies[place] for place in (*places, places[0])])
            state = orjson.loads((await store.read(f"tenant:t{number}")).state)
            assert (state["limits"]["seats"], state["scheduled"]["action"]) == (5, "cancel")
