"""What is asked of a source and what is read of its answer, as values; and the settings that name it."""

from __future__ import annotations

import orjson
import pytest

from planwire_client.core.limits import STATE_MAX_BYTES, STATE_MAX_DEPTH
from sync.settings import SettingsError, SyncSettings
from sync.source.backend import SourceError
from sync.source.client import Answer, read_answer, signature, url_of

SECRET = "x" * 32


@pytest.mark.parametrize(
    ("base", "topic", "url"),
    [
        ("https://a.example/plan", "tenant:acme", "https://a.example/plan/tenant:acme"),
        ("https://a.example/plan/", "user:a@b.c~1", "https://a.example/plan/user:a@b.c~1"),
        ("https://a.example", "sandbox/tenant:acme", "https://a.example/sandbox%2Ftenant:acme"),
        ("https://a.example/{topic}/plan", "tenant:acme", "https://a.example/tenant:acme/plan"),
        ("https://a.example", "tenant:auth0%7C5f", "https://a.example/tenant:auth0%7C5f"),
        ("https://a.example", "sandbox/tenant:a%2Fb%25", "https://a.example/sandbox%2Ftenant:a%2Fb%25"),
    ],
)
def test_a_topic_is_one_segment_of_the_address(base: str, topic: str, url: str) -> None:
    assert url_of(base, topic) == url


def test_the_signature_is_over_method_path_and_time() -> None:
    # printf 'GET\n/plan/tenant:acme\n1795395356' | openssl dgst -sha256 -hmac key
    expected = "6e5d56dde158c7c491b7760ac1a670f47b80448fd34bebcd86d05d6ba90cb79a"
    made = signature(b"key", "/plan/tenant:acme", 1795395356)
    assert made == f"t=1795395356,v1={expected}"
    assert len({made, signature(b"kez", "/plan/tenant:acme", 1795395356), signature(b"key", "/p", 1795395356)}) == 3


def test_an_answer_is_canonical_and_its_version_is_an_order() -> None:
    body = b' {"version": 7, "state": {"b": 1, "a": [null]},\n "private": {"p": 1}} '
    assert read_answer(body) == Answer(b'{"a":[null],"b":1}', b'{"p":1}', "00000000000000000007")
    assert read_answer(b'{"state":null,"order":"2026-01-01","private":null}') == Answer(b"null", b"", "2026-01-01")


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "not an object with a state"),
        (b'{"stat":1}', "not an object with a state"),
        (b'{"state":1,"privat":1}', "unknown field 'privat'"),
        (b'{"state":1,"order":1,"version":1}', "order and version mean the same"),
        (b'{"state":1,"version":"7"}', "version must be an integer"),
        (b'{"state":1,"version":true}', "version must be an integer"),
        (b'{"state":1,"order":-1}', "order must be"),
        (b'{"state":1,"order":true}', "order must be"),
        (b'{"state":1,"order":""}', "order must be"),
        (orjson.dumps({"state": nested(STATE_MAX_DEPTH + 1)}), "state may be nested 32 deep"),
        (orjson.dumps({"state": 1, "private": "x" * STATE_MAX_BYTES}), "private has 32770 bytes"),
        (b'{"state":{"seats":9007199254740992}}', "number_unsafe: state at '/seats' is an integer beyond 2.53-1"),
        (
            b'{"state":1,"private":{"id":18446744073709551616}}',
            "number_unsafe: private at '/id' is an integer beyond 64",
        ),
        (b'{"state":1,"order":18446744073709551616}', "order must be"),
        (b'{"state":1e400}', "not JSON"),
    ],
)
def test_what_no_publish_may_have_is_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        read_answer(answer)


def test_the_limits_themselves_are_allowed() -> None:
    numbers = b'{"private":18446744073709551615,"state":[9007199254740991,-0.0,1e308]}'
    assert read_answer(numbers) == Answer(b"[9007199254740991,0.0,1e+308]", b"18446744073709551615", "")
    assert read_answer(orjson.dumps({"state": nested(STATE_MAX_DEPTH), "private": "x" * (STATE_MAX_BYTES - 2)}))


def read(**environ: str) -> SyncSettings:
    return SyncSettings.from_env({f"PLANWIRE_{name}": value for name, value in environ.items()})


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example",
        "https://a.example/{topic}/plan",
        "http://127.0.0.1:9/plan",
        "http://[::1]:9",
        "http://localhost",
    ],
)
def test_a_source_is_https_or_on_this_machine(url: str) -> None:
    assert read(SOURCE_URL=url, SOURCE_SECRET=SECRET).source_url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.example", "must be https, or http on a loopback host"),
        ("http://127.0.0.1.a.example", "must be https, or http on a loopback host"),
        ("http://10.0.0.1", "must be https, or http on a loopback host"),
        ("ftp://a.example", "must be an http or https URL"),
        ("https://a.example?topic={topic}", "must have no query"),
        ("https://a.example/#x", "must have no query"),
        ("https://user:pw@a.example", "must have no query"),
        ("https://a.example/{topic}/{topic}", "at most once"),
        ("https://a.example/{id}", "at most once"),
        ("https://a.example/plan-{topic}", "must be a whole segment"),
        ("https://{topic}.a.example/", "must be a whole segment"),
    ],
)
def test_an_address_that_could_be_another_s_is_refused(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read(SOURCE_URL=url, SOURCE_SECRET=SECRET)


def test_a_source_has_a_secret_and_development_may_use_any_host() -> None:
    for secret in ("", "x" * 31):
        with pytest.raises(SettingsError, match="PLANWIRE_SOURCE_SECRET must have at least 32 bytes"):
            read(SOURCE_URL="https://a.example", SOURCE_SECRET=secret)
    assert read(SOURCE_URL="http://a.example", SOURCE_SECRET=SECRET, DEV="1").source_url
    assert SECRET not in repr(read(SOURCE_URL="https://a.example", SOURCE_SECRET=SECRET))


def test_billed_environments_are_those_of_providers() -> None:
    assert read().billed_environments == frozenset()
    settings = read(PADDLE_SECRETS="live:a", PADDLE_API_KEYS="demo:k", STRIPE_SECRETS="test:b", CATALOG="x.toml")
    assert settings.billed_environments == {"live", "demo", "test"}
