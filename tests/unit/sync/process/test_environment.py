"""Every setting of every process is known by name, and a name that is not known is an error with a hint."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from gateway.settings import GatewaySettings
from sync.billing.providers import registry
from sync.process import environment
from sync.process.environment import SettingNameError, is_service_link, read
from sync.process.settings import SettingsModel
from sync.settings import SyncSettings
from tests.support.service_links import service_links

BESIDE_THE_MODELS = {
    "PLANWIRE_OUTBOX_URL",  # the relay's own, beside the settings of sync
    "PLANWIRE_PUBLISH_KEY",  # the plain key, which the command line reads from dev.env
}


def test_the_names_are_those_of_the_settings_models() -> None:
    models: list[type[SettingsModel]] = [
        GatewaySettings,
        SyncSettings,
        *(spec.settings for spec in registry.PROVIDERS.values()),
    ]
    names = {name for model in models for name in model.variables()} - {"PORT"}
    assert names | BESIDE_THE_MODELS == environment.NAMES, "run: make docs"


def test_a_model_s_own_names_are_known_before_the_file_has_them() -> None:
    environ = {"PLANWIRE_ACME_SECRETS": " x\n", "X_PLANWIRE_ACME_API_KEYS": "y"}
    own = {"PLANWIRE_ACME_SECRETS", "PLANWIRE_ACME_API_KEYS"}
    assert read(environ, own) == {"PLANWIRE_ACME_SECRETS": "x", "PLANWIRE_ACME_API_KEYS": "y"}
    with pytest.raises(SettingNameError, match="did you mean PLANWIRE_ACME_SECRETS"):
        read({"PLANWIRE_ACME_SECRET": "x"}, own)


def test_known_names_and_names_of_others_pass() -> None:
    environ = dict.fromkeys([*environment.NAMES, "PATH", "PORT", "planwire_redis_url", "XPLANWIRE_NOPE"], "x")
    assert read(environ) == environ


def test_a_misspelt_name_is_an_error_that_says_what_was_meant() -> None:
    with pytest.raises(SettingNameError) as caught:
        read({"PLANWIRE_REDIS_ULR": "", "PATH": ""})
    assert str(caught.value) == "unknown setting PLANWIRE_REDIS_ULR; did you mean PLANWIRE_REDIS_URL?"


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(SettingNameError) as caught:
        read({"PLANWIRE_QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ": "1"})
    assert "did you mean" not in str(caught.value)


def test_the_alphabetically_first_unknown_name_is_reported() -> None:
    with pytest.raises(SettingNameError, match="PLANWIRE_AAAA"):
        read({"PLANWIRE_ZZZZ": "1", "PLANWIRE_AAAA": "1"})


@pytest.mark.parametrize("value", ["x\n", "x\r\n", "  x", "\tx \n\n"])
def test_blanks_and_line_ends_around_a_value_of_ours_are_dropped(value: str) -> None:
    environ = {"PLANWIRE_JWT_ISSUER": value, "PORT": value, "WEB_CONCURRENCY": value, "OTHER": value}
    assert read(environ) == {"PLANWIRE_JWT_ISSUER": "x", "PORT": "x", "WEB_CONCURRENCY": "x", "OTHER": value}


@pytest.mark.parametrize(
    "service", ["planwire", "planwire-web", "planwire-metrics", "planwire-2", "planwire-redis-url"]
)
@pytest.mark.parametrize("address", ["10.96.0.12", "fd00:10:96::c"])
@pytest.mark.parametrize(
    "ports",
    [
        (("", 80, "TCP"),),
        (("http", 80, "TCP"), ("metrics-web", 9100, "TCP")),
        (("dns", 53, "UDP"), ("sig", 36412, "SCTP")),
    ],
)
def test_what_kubernetes_sets_for_a_service_is_left_out(
    service: str, address: str, ports: tuple[tuple[str, int, str], ...]
) -> None:
    links = service_links(service, address, *ports)
    assert all(is_service_link(name, value) for name, value in links.items())
    assert read(links | {"PLANWIRE_HOST": "::"}) == {"PLANWIRE_HOST": "::"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLANWIRE_PORT", "8000"),
        ("PLANWIRE_PORT", "tcp://planwire:80"),
        ("PLANWIRE_PORT", "http://10.0.0.1:80"),
        ("PLANWIRE_PORT", "tcp://10.0.0.1"),
        ("PLANWIRE_PORT", "tcp://10.0.0.1:0"),
        ("PLANWIRE_PORT", "tcp://10.0.0.1:65536"),
        ("PLANWIRE_SERVICE_HOST", "planwire.example"),
        ("PLANWIRE_SERVICE_HOST", ""),
        ("PLANWIRE_SERVICE_PORT", "http"),
        ("PLANWIRE_SERVICE_PORT", "0"),
        ("PLANWIRE_SERVICE_PORT", "99999999999"),
        ("PLANWIRE_SERVICE_PORT", "0000019999999"),
        ("PLANWIRE_PORT_80_TCP_PROTO", "http"),
        ("PLANWIRE_PORT_X_TCP", "tcp://10.0.0.1:80"),
        ("PLANWIRE_PORT_80_HTTP", "tcp://10.0.0.1:80"),
        ("PLANWIRE_SERVICE_HOSTS", "10.0.0.1"),
        ("PLANWIRE_SUPPORT", "tcp://10.0.0.1:80"),
    ],
)
def test_a_name_or_a_value_of_another_form_is_an_error_as_ever(name: str, value: str) -> None:
    with pytest.raises(SettingNameError, match=name):
        read({name: value})


def test_a_setting_whose_name_looks_like_a_service_link_is_told_from_it_by_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        environment, "NAMES", environment.NAMES | {"PLANWIRE_METRICS_PORT", "PLANWIRE_METRICS_SERVICE_PORT"}
    )
    link = {"PLANWIRE_METRICS_PORT": "tcp://10.96.0.12:9100"}
    own = {"PLANWIRE_METRICS_PORT": "9100", "PLANWIRE_METRICS_SERVICE_PORT": "9100"}
    assert read(link) == {}
    assert read(own) == own


def test_a_setting_may_have_the_name_that_older_builds_ignore() -> None:
    given = {"X_PLANWIRE_PUBLISH_RIGHTS": " a\n", "X_PLANWIRE_LATER": " b", "X_OTHER": "c"}
    assert read(given) == {"PLANWIRE_PUBLISH_RIGHTS": "a", "X_PLANWIRE_LATER": " b", "X_OTHER": "c"}
    assert read(read(given)) == read(given)
    assert environment.ignored_names(given) == environment.ignored_names(read(given)) == ["X_PLANWIRE_LATER"]


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_the_same_value_twice_is_one_and_a_blank_one_is_none(blank: str) -> None:
    plain, tolerant = "PLANWIRE_PUBLISH_RIGHTS", "X_PLANWIRE_PUBLISH_RIGHTS"
    for given in ({plain: "a", tolerant: "a\n"}, {plain: blank, tolerant: "a"}, {plain: "a", tolerant: blank}):
        assert read(given) == {plain: "a"}
    with pytest.raises(SettingNameError, match=f"{plain} and {tolerant} have different values"):
        read({plain: "a", tolerant: "b"})


def test_a_service_link_is_no_second_value_and_has_no_tolerant_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "NAMES", environment.NAMES | {"PLANWIRE_METRICS_PORT"})
    links = {"PLANWIRE_METRICS_PORT": "tcp://10.96.0.12:9100", "X_PLANWIRE_WEB_PORT": "tcp://10.96.0.12:80"}
    found = read(links | {"X_PLANWIRE_METRICS_PORT": "9100"})
    assert found == {"PLANWIRE_METRICS_PORT": "9100", "X_PLANWIRE_WEB_PORT": "tcp://10.96.0.12:80"}
    assert environment.ignored_names(found) == ["X_PLANWIRE_WEB_PORT"]


@pytest.mark.parametrize(
    ("installed", "mixed"),
    [
        ({}, False),
        ({"planwire": "1.0"}, False),
        ({"planwire-client": "1.0"}, False),
        ({"planwire": "1.0", "planwire-client": "1.0"}, False),
        ({"planwire": "1.1", "planwire-client": "1.0"}, True),
    ],
)
def test_only_different_versions_are_told(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], mixed: bool
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(environment, "version", version)
    assert environment.mixed_versions() == (installed if mixed else {})
