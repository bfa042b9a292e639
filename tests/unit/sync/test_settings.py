"""The settings of sync: complete, exact about what is wrong, and silent about secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.cli.settings_reference import Reader, collect
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.providers import registry
from sync.billing.providers.webhook_adapter import Secret
from sync.outbox import relay
from sync.process.settings import SettingsModel
from sync.settings import SettingsError, SyncSettings
from sync.simulator import settings as simulator_settings

SECRETS = "live:pdl_ntfset_a, sandbox:pdl_ntfset_b,live:pdl_ntfset_c"


def read(**environ: str) -> SyncSettings:
    return SyncSettings.from_env({f"PLANWIRE_{name}": value for name, value in environ.items()})


def test_every_provider_has_settings_under_its_own_name() -> None:
    for name, spec in registry.PROVIDERS.items():
        assert {variable.removeprefix(f"PLANWIRE_{name.upper()}_") for variable in spec.settings.variables()} == {
            *("SECRETS", "API_KEYS", "API_URL", "API_RATE_PER_S", "TOLERANCE_S"),
            *(("CONNECT_ACCOUNTS",) if name == "stripe" else ()),
        }
    assert read().providers.keys() == registry.PROVIDERS.keys()


def test_the_secrets_of_one_provider_are_never_another_s() -> None:
    settings = read(PADDLE_SECRETS=SECRETS, CATALOG="plans.toml")
    assert settings.providers["stripe"].signing_secrets == ()
    with pytest.raises(KeyError):
        settings.providers["lemonsqueezy"]


def test_nothing_is_required_without_a_provider() -> None:
    settings = read()
    assert settings.providers["paddle"].tolerance_s == 300
    assert settings.environments == ("live",)
    assert settings.catalog_path == EXAMPLE


def test_secrets_name_their_environments() -> None:
    settings = read(PADDLE_SECRETS=SECRETS, CATALOG="plans.toml", PADDLE_API_KEYS="demo:key")
    assert settings.providers["paddle"].signing_secrets == (
        Secret("live", b"pdl_ntfset_a"),
        Secret("sandbox", b"pdl_ntfset_b"),
        Secret("live", b"pdl_ntfset_c"),
    )
    assert settings.environments == ("live", "demo", "sandbox")
    assert settings.catalog_path == Path("plans.toml")


def test_tenant_references_have_secrets_of_their_own_or_none() -> None:
    assert read().tenant_secret == ()
    assert "n" * 32 not in repr(read(TENANT_SECRET="n" * 32))
    settings = read(TENANT_SECRET=f"{'n' * 32}, {'o' * 32}")
    assert [secret.get_secret_value() for secret in settings.tenant_secret] == ["n" * 32, "o" * 32]
    with pytest.raises(SettingsError, match="PLANWIRE_TENANT_SECRET: a secret has at least 32 bytes"):
        read(TENANT_SECRET=f"{'n' * 32},short")


def test_a_catalog_is_required_with_a_provider_outside_development() -> None:
    with pytest.raises(SettingsError, match="PLANWIRE_CATALOG must be set"):
        read(PADDLE_SECRETS=SECRETS)
    assert read(PADDLE_SECRETS=SECRETS, DEV="1").catalog_path == EXAMPLE


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PADDLE_SECRETS", "pdl_ntfset_hidden", "PLANWIRE_PADDLE_SECRETS: must be a list such as live:VALUE"),
        ("PADDLE_SECRETS", "live:", "PLANWIRE_PADDLE_SECRETS: must be a list such as live:VALUE"),
        ("PADDLE_SECRETS", "Live:pdl_ntfset_hidden", "PLANWIRE_PADDLE_SECRETS: must be a list such as live:VALUE"),
        (
            "PADDLE_SECRETS",
            "live:pdl_ntfset_hidden,sandbox:pdl_ntfset_hidden",
            "PLANWIRE_PADDLE_SECRETS: the same value stands for live and for sandbox",
        ),
        ("PADDLE_TOLERANCE_S", "-1", "PLANWIRE_PADDLE_TOLERANCE_S: "),
        ("PADDLE_TOLERANCE_S", "86401", "PLANWIRE_PADDLE_TOLERANCE_S: "),
        ("PADDLE_API_URL", "api.paddle.com", "PLANWIRE_PADDLE_API_URL: must be an http or https URL"),
        ("WATCH_PID", "x", "PLANWIRE_WATCH_PID: "),
        ("DURABLE", "perhaps", "PLANWIRE_DURABLE: "),
        ("CATALGO", "x", "unknown setting PLANWIRE_CATALGO; did you mean PLANWIRE_CATALOG?"),
    ],
)
def test_what_is_wrong_is_named_and_never_shown(name: str, value: str, problem: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(**{name: value})
    assert str(raised.value).startswith(problem)
    assert "hidden" not in str(raised.value)


def test_secrets_are_not_shown() -> None:
    settings = read(PADDLE_SECRETS=SECRETS, CATALOG="plans.toml", REDIS_URL="redis://:hidden@host")
    shown = repr(settings) + repr(settings.providers["paddle"].signing_secrets)
    assert "ntfset_a" not in shown
    assert "hidden" not in shown


def test_it_is_frozen_and_blind_to_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANWIRE_PADDLE_TOLERANCE_S", "1")
    settings: Any = read(PADDLE_TOLERANCE_S="")
    paddle: Any = settings.providers["paddle"]
    assert paddle.tolerance_s == 300
    with pytest.raises(ValidationError):
        settings.dev = True
    with pytest.raises(ValidationError):
        paddle.tolerance_s = 1


def test_the_api_s_url_is_one_for_all_or_one_for_each() -> None:
    assert read().providers["paddle"].base_url("live") == ""
    assert read(PADDLE_API_URL="http://127.0.0.1:1").providers["paddle"].base_url("sandbox") == "http://127.0.0.1:1"
    settings = read(PADDLE_API_URL="live:http://localhost:1, sandbox:https://b")
    urls = [settings.providers["paddle"].base_url(name) for name in ("live", "sandbox", "other")]
    assert urls == ["http://localhost:1", "https://b", ""]


@pytest.mark.parametrize(
    "value", ["ftp://a", "live:x", "live:http://a,live:http://b", "http://a,live:http://b", "http"]
)
def test_an_api_url_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="PLANWIRE_PADDLE_API_URL: must be an http or https URL"):
        read(PADDLE_API_URL=value)


@pytest.mark.parametrize("name", ["PADDLE_API_URL", "STRIPE_API_URL"])
@pytest.mark.parametrize(
    "value",
    [
        "http://api.paddle.com",
        "live:https://a,sandbox:http://b:8000",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
    ],
)
def test_an_api_key_is_not_sent_in_the_clear(name: str, value: str) -> None:
    for dev in ("0", "1"):
        with pytest.raises(SettingsError, match=f"PLANWIRE_{name}: must be https, or http on a loopback host"):
            read(**{name: value, "DEV": dev})


def test_an_environment_has_one_api_key() -> None:
    with pytest.raises(SettingsError, match="two keys for live"):
        read(PADDLE_API_KEYS="live:a,live:b")


def test_stripe_s_secrets_are_read_alike() -> None:
    settings = read(STRIPE_SECRETS="live:whsec_a,test:whsec_b", CATALOG="plans.toml")
    assert settings.providers["stripe"].signing_secrets == (Secret("live", b"whsec_a"), Secret("test", b"whsec_b"))
    assert settings.environments == ("live", "test")
    with pytest.raises(SettingsError, match="PLANWIRE_CATALOG must be set where PLANWIRE_STRIPE_SECRETS is"):
        read(STRIPE_SECRETS="live:whsec_a")


def test_connected_accounts_are_a_list_or_all() -> None:
    assert read().providers["stripe"].accounts == frozenset()
    assert read(STRIPE_CONNECT_ACCOUNTS="acct_1A, acct_2b").providers["stripe"].accounts == {"acct_1A", "acct_2b"}
    assert read(STRIPE_CONNECT_ACCOUNTS="*").providers["stripe"].accounts == {"*"}
    assert read().providers["paddle"].accounts == frozenset()
    with pytest.raises(SettingsError, match="PLANWIRE_STRIPE_CONNECT_ACCOUNTS: 'all' is no account: give a list"):
        read(STRIPE_CONNECT_ACCOUNTS="acct_1A,all")


def test_webhooks_have_a_limit_of_their_own() -> None:
    assert read().webhook_body_max_bytes == 1_048_576
    assert read(WEBHOOK_BODY_MAX_BYTES="2000000").webhook_body_max_bytes == 2_000_000
    with pytest.raises(SettingsError, match="PLANWIRE_WEBHOOK_BODY_MAX_BYTES"):
        read(WEBHOOK_BODY_MAX_BYTES="99000000")


def test_stripe_s_api_keys_and_addresses() -> None:
    settings = read(
        STRIPE_API_KEYS="live:sk_live_a,sandbox:rk_test_b",
        STRIPE_API_URL="sandbox:http://127.0.0.1:1",
        STRIPE_TOLERANCE_S="9",
    )
    stripe = settings.providers["stripe"]
    assert [name for name, _ in stripe.api_keys] == ["live", "sandbox"]
    assert (stripe.base_url("sandbox"), stripe.base_url("live")) == ("http://127.0.0.1:1", "")
    assert settings.providers["paddle"].base_url("sandbox") == ""
    assert (settings.environments, stripe.tolerance_s) == (("live", "sandbox"), 9)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("live:sk_test_hidden", "a key of Stripe's test mode for live"),
        ("sandbox:rk_live_hidden", "a key of Stripe's live mode for sandbox"),
        ("live:sk_live_hidden,live:sk_live_hidden2", "two keys for live"),
    ],
)
def test_stripe_s_keys_are_of_their_environment(keys: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as raised:
        read(STRIPE_API_KEYS=keys)
    assert "hidden" not in str(raised.value)


WHSEC = "whsec_" + "c2Vj" * 8


def test_endpoints_are_confidential_and_are_not_shown() -> None:
    settings = read(WEBHOOK_ENDPOINTS=f"app https://app.example.com/hidden {WHSEC}, audit http://127.0.0.1:1/ {WHSEC}")
    assert [endpoint.name for endpoint in settings.webhook_endpoints] == ["app", "audit"]
    assert "hidden" not in repr(settings)
    assert "sec" * 8 not in repr(settings)
    plain = f"app http://app.example.com/hidden {WHSEC}"
    with pytest.raises(SettingsError, match="WEBHOOK_ENDPOINTS: app must be https, or http on a loopback host"):
        read(WEBHOOK_ENDPOINTS=plain)
    assert read(WEBHOOK_ENDPOINTS=plain, DEV="1").webhook_endpoints[0].keys == (b"sec" * 8,)


def test_line_ends_around_a_value_mean_nothing_in_any_setting() -> None:
    samples = {
        "REDIS_URL": "redis://db:6379/0",
        "CATALOG": "plans.toml",
        "SOURCE_URL": "https://app.example.com/plan",
        "SOURCE_SECRET": "s" * 32,
        "SHADOW_URL": "https://app.example.com/entitlements/{tenant}",
        "SHADOW_TOKEN": "u" * 32,
        "TENANT_SECRET": "t" * 32,
        "SIMULATOR_URL": "http://127.0.0.1:1",
        "WEBHOOK_URL": "http://127.0.0.1:2",
        "WEBHOOK_ENDPOINTS": f"app https://app.example.com/hooks {WHSEC}",
        "ALIVE_FILE": "/tmp/alive",
        "STRIPE_CONNECT_ACCOUNTS": "acct_1A",
    }
    for provider in (name.upper() for name in registry.PROVIDERS):
        samples |= {f"{provider}_SECRETS": f"live:{provider}", f"{provider}_API_KEYS": "live:key"}
        samples[f"{provider}_API_URL"] = "https://provider.example"
    always = {name: samples[name] for name in ("CATALOG", "SOURCE_SECRET")}
    models: list[type[SettingsModel]] = [SyncSettings, *(spec.settings for spec in registry.PROVIDERS.values())]
    settings = collect(*(Reader(model, ("worker",), {}) for model in models))
    found = {setting.name: setting.default for setting in settings}
    for name in (name.removeprefix("PLANWIRE_") for model in models for name in model.variables()):
        value = samples.get(name) or found[f"PLANWIRE_{name}"]
        assert value, f"{name} needs a sample"
        for spelt in (f"{value}\n", f"\t{value}\r\n", f" {value} "):
            assert read(**always | {name: spelt}) == read(**always | {name: value}), name


def test_what_is_read_without_a_model_is_read_without_line_ends_too() -> None:
    for name in ("PLANWIRE_OUTBOX_URL", "X_PLANWIRE_OUTBOX_URL"):
        assert relay.database_of({name: "postgresql://db/app\n"}) == "postgresql://db/app"
    with pytest.raises(SettingsError, match="unknown setting PLANWIRE_OUTBOX_ULR"):
        relay.database_of({"PLANWIRE_OUTBOX_ULR": "postgresql://db/app"})
    with pytest.raises(SettingsError, match="PLANWIRE_OUTBOX_URL is not set"):
        relay.database_of({"PLANWIRE_OUTBOX_URL": " \n"})
    simulator = simulator_settings.from_env(
        {
            "PLANWIRE_DEV": "1\n",
            "PLANWIRE_SIMULATOR_URL": "http://127.0.0.1:8100\n",
            "PLANWIRE_PADDLE_SECRETS": "live:x\n",
            "PORT": "8123\n",
        }
    )
    assert simulator.webhook_url == "http://127.0.0.1:8123/webhooks/paddle"


def test_the_metadata_keys_that_name_a_tenant() -> None:
    assert read().tenant_fields == ("tenant_id", "tenantId")
    assert read(TENANT_FIELDS=" org , user_id,org").tenant_fields == ("org", "user_id")
    for wrong in (",", "a,,b", "x" * 101, ",".join(f"k{number}" for number in range(17))):
        with pytest.raises(SettingsError, match="PLANWIRE_TENANT_FIELDS: must be 1 to 16 metadata keys"):
            read(TENANT_FIELDS=wrong)
