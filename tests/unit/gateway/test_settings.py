"""The environment becomes a frozen configuration, or one clear sentence per problem."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.cli.settings_reference import Reader, collect
from gateway.settings import GatewaySettings, SettingsError
from sync.process import environment

SECRET = "0123456789abcdef0123456789abcdef"
DIGEST = hashlib.sha256(b"key").hexdigest()


def settings(**values: str) -> GatewaySettings:
    return GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": SECRET, **values})


def problem_of(**values: str) -> str:
    with pytest.raises(SettingsError) as raised:
        settings(**values)
    return str(raised.value)


def test_defaults_need_nothing_but_a_way_to_verify_tokens() -> None:
    made = settings()
    assert (made.port, made.heartbeat_s, made.frame_max_bytes, made.dev) == (8000, 15, 65_536, False)
    with pytest.raises(SettingsError, match="PLANWIRE_JWT_SECRET or PLANWIRE_JWKS must be set"):
        GatewaySettings.from_env({})


def test_dev_has_no_default_secret_either() -> None:
    with pytest.raises(SettingsError, match="must be set"):
        GatewaySettings.from_env({"PLANWIRE_DEV": "1"})


def test_it_reads_the_mapping_it_is_given_and_not_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANWIRE_HEARTBEAT_S", "3")
    monkeypatch.setenv("HEARTBEAT_S", "4")
    assert settings().heartbeat_s == 15


def test_every_field_is_read_from_its_name() -> None:
    made = settings(
        PORT="9001", PLANWIRE_HEARTBEAT_S="1.5", PLANWIRE_DURABLE="1", PLANWIRE_INTAKE="0", PLANWIRE_LOG_LEVEL="debug"
    )
    assert (made.port, made.heartbeat_s, made.durable, made.intake, made.log_level) == (9001, 1.5, True, False, "debug")


def test_an_empty_value_is_an_absent_one() -> None:
    assert settings(PLANWIRE_HEARTBEAT_S="").heartbeat_s == 15


def test_an_unknown_name_is_an_error_that_names_the_closest() -> None:
    assert problem_of(PLANWIRE_HEARTBEATS_S="1") == (
        "unknown setting PLANWIRE_HEARTBEATS_S; did you mean PLANWIRE_HEARTBEAT_S?"
    )


def test_names_of_other_processes_and_other_programs_are_not_ours_to_refuse() -> None:
    assert settings(PLANWIRE_CATALOG="x.toml", HOME="/root").port == 8000


def test_every_name_is_known_to_every_process() -> None:
    own = GatewaySettings.variables().keys() - {"PORT"}
    assert own <= environment.NAMES


def test_several_problems_are_all_told() -> None:
    said = problem_of(PLANWIRE_HEARTBEAT_S="-1", PLANWIRE_SWEEP_S="soon")
    assert "PLANWIRE_HEARTBEAT_S: " in said
    assert "PLANWIRE_SWEEP_S: " in said


@pytest.mark.parametrize("name", ["JWT_SECRET", "PUBLISH_KEYS"])
def test_a_refused_secret_is_not_shown(name: str) -> None:
    assert "hunter2" not in problem_of(**{f"PLANWIRE_{name}": "hunter2"})


def test_no_secret_is_in_the_repr() -> None:
    made = settings(
        PLANWIRE_REDIS_URL="redis://:hunter2@db",
        PLANWIRE_CONSOLE_TOKEN="hunter3" * 5,
        PLANWIRE_PUBLISH_KEYS=f"a:{DIGEST}",
    )
    shown = repr(made) + str(made)
    assert not any(secret in shown for secret in (SECRET, "hunter2", "hunter3", DIGEST))
    assert made.redis_url.get_secret_value() == "redis://:hunter2@db"


def test_it_is_frozen() -> None:
    made: Any = settings()
    with pytest.raises(ValidationError):
        made.port = 1


def test_a_short_secret_is_refused() -> None:
    assert "at least 32 bytes" in problem_of(PLANWIRE_JWT_SECRET=SECRET[:31])


def test_secrets_rotate_by_being_several() -> None:
    second = SECRET[::-1]
    made = settings(PLANWIRE_JWT_SECRET=f"{SECRET}, {second}")
    assert [secret.get_secret_value() for secret in made.jwt_secret] == [SECRET, second]


def test_publish_keys_have_a_name_a_hash_and_perhaps_a_rate() -> None:
    other = hashlib.sha256(b"other").hexdigest()
    assert settings(PLANWIRE_PUBLISH_KEYS=f"ci:{DIGEST},app:{other}:2.5").publish_keys == (
        ("ci", DIGEST, None),
        ("app", other, 2.5),
    )


@pytest.mark.parametrize(
    "value", ["ci", "ci:abc", f"ci:{DIGEST.upper()}", f"ci:{DIGEST}:0", f"ci:{DIGEST}:x", f"a:{DIGEST},b:{DIGEST}"]
)
def test_malformed_publish_keys_are_refused(value: str) -> None:
    assert problem_of(PLANWIRE_PUBLISH_KEYS=value).startswith("PLANWIRE_PUBLISH_KEYS: ")


RIGHTS = "ci:publish:prefs:*, ci:tenants+admin:tenant:acme"


@pytest.mark.parametrize("name", ["PLANWIRE_PUBLISH_RIGHTS", "X_PLANWIRE_PUBLISH_RIGHTS"])
def test_publish_keys_have_rights_under_either_name(name: str) -> None:
    made = settings(PLANWIRE_PUBLISH_KEYS=f"ci:{DIGEST}", **{name: RIGHTS})
    assert list(map(str, made.publish_rights)) == ["ci:publish:prefs:*", "ci:tenants+admin:tenant:acme"]


def test_the_rights_of_no_key_are_a_mistake() -> None:
    assert problem_of(PLANWIRE_PUBLISH_KEYS=f"app:{DIGEST}", PLANWIRE_PUBLISH_RIGHTS=RIGHTS) == (
        "PLANWIRE_PUBLISH_RIGHTS names ci, which is no key of PLANWIRE_PUBLISH_KEYS"
    )


def test_malformed_rights_are_refused_by_the_settings_name() -> None:
    said = problem_of(PLANWIRE_PUBLISH_KEYS=f"ci:{DIGEST}", X_PLANWIRE_PUBLISH_RIGHTS="ci:write:*")
    assert said.startswith(
        "PLANWIRE_PUBLISH_RIGHTS: 'write' in the entry of ci is not a scope: publish, usage, tenants, admin"
    )


def test_a_setting_has_one_value_whichever_name_it_has() -> None:
    assert settings(PLANWIRE_SWEEP_S="2", X_PLANWIRE_SWEEP_S="2").sweep_s == 2
    assert settings(PLANWIRE_SWEEP_S="", X_PLANWIRE_SWEEP_S="3").sweep_s == 3
    assert settings(PLANWIRE_SWEEP_S="4", X_PLANWIRE_SWEEP_S="").sweep_s == 4
    assert problem_of(PLANWIRE_SWEEP_S="2", X_PLANWIRE_SWEEP_S="3") == (
        "PLANWIRE_SWEEP_S and X_PLANWIRE_SWEEP_S have different values: set one of them"
    )


def test_a_tolerated_name_that_is_not_known_is_ignored() -> None:
    assert settings(X_PLANWIRE_OF_A_LATER_BUILD="1").port == 8000


@pytest.mark.parametrize("value", ["short", "a" * 31, "a" * 513, "a b" * 20, "ä" * 40, '"' * 40])
def test_a_metrics_token_is_long_and_fits_a_header(value: str) -> None:
    said = problem_of(PLANWIRE_METRICS_TOKEN=value)
    assert said.startswith("PLANWIRE_METRICS_TOKEN: must be 32 to 512 characters")
    assert value not in said


def test_a_metrics_token_is_read_without_white_space_and_not_shown() -> None:
    made = settings(PLANWIRE_METRICS_TOKEN=f"{SECRET}\n")
    assert made.metrics_token.get_secret_value() == SECRET
    assert SECRET not in repr(made)


@pytest.mark.parametrize("value", ["example.com", "https://a.com/", "https://a.com/x", "ftp://a.com", "*"])
def test_what_is_no_origin_is_refused(value: str) -> None:
    assert "is not an origin" in problem_of(PLANWIRE_ALLOWED_ORIGINS=value)


def test_origins_are_exact() -> None:
    made = settings(PLANWIRE_ALLOWED_ORIGINS="https://App.example.com, http://localhost:3000")
    assert made.origin_allowed("https://app.example.com")
    assert made.origin_allowed("http://localhost:3000")
    for origin in ("", "null", "http://app.example.com", "https://app.example.com.evil.com", "http://localhost:3001"):
        assert not made.origin_allowed(origin)


def test_dev_allows_loopback_origins_and_no_others() -> None:
    made = settings(PLANWIRE_DEV="1")
    for origin in ("http://localhost:1", "http://127.0.0.1:8000", "http://[::1]:5", "https://localhost"):
        assert made.origin_allowed(origin)
    for origin in ("http://localhost.evil.com", "http://evil.com", "file://localhost", "http://[", "null", ""):
        assert not made.origin_allowed(origin)


@pytest.mark.parametrize(
    ("value", "is_good"),
    [
        ("https://issuer.example/jwks", True),
        ("http://127.0.0.1:9/jwks", True),
        ("http://issuer.example/jwks", False),
        ("file:///etc/keys", False),
        ("/etc/keys.json", True),
    ],
)
def test_key_sets_are_not_fetched_in_the_clear(value: str, is_good: bool) -> None:
    if is_good:
        assert settings(PLANWIRE_JWKS=value).jwks == value
    else:
        assert "https" in problem_of(PLANWIRE_JWKS=value)


@pytest.mark.parametrize("value", ["HS256", "none", "RS256,HS384", "ES256K"])
def test_only_asymmetric_algorithms_are_for_key_sets(value: str) -> None:
    assert problem_of(PLANWIRE_JWT_ALGORITHMS=value).startswith("PLANWIRE_JWT_ALGORITHMS: ")


def test_bounds_that_contradict_each_other_are_refused() -> None:
    assert "PLANWIRE_RECONNECT_MIN_MS" in problem_of(PLANWIRE_RECONNECT_MIN_MS="2000", PLANWIRE_RECONNECT_MAX_MS="1000")


def test_every_field_says_what_it_is() -> None:
    assert [name for name, field in GatewaySettings.model_fields.items() if not field.description] == []


def test_line_ends_around_a_value_mean_nothing_in_any_setting() -> None:
    samples = {
        "PLANWIRE_REDIS_URL": "redis://db:6379/0",
        "PLANWIRE_ALLOWED_ORIGINS": "https://app.example.com",
        "PLANWIRE_TRUSTED_PROXIES": "10.0.0.0/8",
        "PLANWIRE_SOURCE_URL": "https://app.example.com/plan",
        "PLANWIRE_SIMULATOR_URL": "http://127.0.0.1:1",
        "PLANWIRE_JWT_SECRET": SECRET,
        "PLANWIRE_JWKS": "/etc/keys.json",
        "PLANWIRE_JWT_AUDIENCE": "app",
        "PLANWIRE_JWT_ISSUER": "https://issuer.example",
        "PLANWIRE_PUBLISH_KEYS": f"ci:{DIGEST}",
        "PLANWIRE_PUBLISH_RIGHTS": "ci:publish:prefs:*",
        "PLANWIRE_CONSOLE_TOKEN": "c" * 40,
        "PLANWIRE_METRICS_TOKEN": "m" * 40,
        "PLANWIRE_WEBHOOK_ENDPOINTS": f"app https://app.example.com/hooks whsec_{'c2Vj' * 8}",
    }
    beside = {"PLANWIRE_PUBLISH_KEYS": f"ci:{DIGEST}"}  # whose the rights are
    found = {setting.name: setting.default for setting in collect(Reader(GatewaySettings, ("web",), {}))}
    for name in GatewaySettings.variables():
        value = samples.get(name) or found[name]
        assert value, f"{name} needs a sample"
        expected = settings(**beside | {name: value})
        for spelt in (f"{value}\n", f"\t{value}\r\n", f" {value} "):
            assert settings(**beside | {name: spelt}) == expected, name
            assert name == "PORT" or settings(**beside | {f"X_{name}": spelt}) == expected, name


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "planwire.lan", "2001:db8::1"])
def test_development_mode_is_for_loopback_unless_it_is_allowed_by_a_name_that_says_what_it_is(host: str) -> None:
    said = problem_of(PLANWIRE_DEV="1", PLANWIRE_HOST=host)
    assert said.startswith(f"PLANWIRE_DEV: development mode is for loopback, and PLANWIRE_HOST is {host}")
    assert "PLANWIRE_DEV_INSECURE_HOST=1" in said
    assert settings(PLANWIRE_DEV="1", PLANWIRE_HOST=host, PLANWIRE_DEV_INSECURE_HOST="1").host == host
    assert settings(PLANWIRE_HOST=host).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_every_name_of_loopback_is_loopback(host: str) -> None:
    assert settings(PLANWIRE_DEV="1", PLANWIRE_HOST=host).dev


def test_console_tokens_have_a_length_outside_development() -> None:
    long = "c" * 32
    for value in ("x", "c" * 31, f"{long},short", f"read:{long},admin:{'d' * 31}", f"read:{'c' * 31}"):
        said = problem_of(PLANWIRE_CONSOLE_TOKEN=value)
        assert said.startswith("PLANWIRE_CONSOLE_TOKEN: a token has at least 32 characters")
        assert "ccc" not in said
        assert settings(PLANWIRE_CONSOLE_TOKEN=value, PLANWIRE_DEV="1").dev
    for value in (long, f"read:{long}", f"{long},admin+private:{'d' * 32}", ""):
        assert settings(PLANWIRE_CONSOLE_TOKEN=value).console_token.get_secret_value() == value
