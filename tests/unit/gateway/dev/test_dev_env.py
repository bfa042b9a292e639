"""Development secrets: made once, private, and always second to the environment."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from gateway.dev import dev_env
from gateway.dev.dev_env import DevEnvError
from gateway.settings import GatewaySettings

ADDRESSES = {"PORT": "8123", "PLANWIRE_SIMULATOR_URL": "http://127.0.0.1:8124"}


def names_hash(key: str) -> str:
    return f"dev:{hashlib.sha256(key.encode()).hexdigest()}"


def test_ensure_makes_every_secret_once(tmp_path: Path) -> None:
    first = dev_env.ensure(tmp_path, ADDRESSES)
    assert first.keys() == dev_env.generate().keys() | ADDRESSES.keys()
    assert dev_env.ensure(tmp_path, ADDRESSES) == first == dev_env.load(tmp_path)


def test_two_directories_have_different_secrets(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = dev_env.ensure(tmp_path / "a", {}), dev_env.ensure(tmp_path / "b", {})
    assert all(one[name] != other[name] for name in one)


def test_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        dev_env.ensure(tmp_path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "dev.env").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["dev.env"]


def test_addresses_are_those_of_the_last_run_and_secrets_stay(tmp_path: Path) -> None:
    first = dev_env.ensure(tmp_path, ADDRESSES)
    second = dev_env.ensure(tmp_path, ADDRESSES | {"PORT": "9000"})
    assert second == first | {"PORT": "9000"} == dev_env.load(tmp_path)


def test_a_missing_secret_is_added_and_an_own_line_is_kept(tmp_path: Path) -> None:
    (tmp_path / "dev.env").write_text("# mine\n\nPLANWIRE_JWT_SECRET=a=b\nPLANWIRE_CATALOG=my.toml\nnonsense\n")
    values = dev_env.ensure(tmp_path, {})
    assert values["PLANWIRE_JWT_SECRET"] == "a=b"
    assert values["PLANWIRE_CATALOG"] == "my.toml"
    assert values["PLANWIRE_PADDLE_SECRETS"]
    assert "PLANWIRE_CONSOLE_TOKEN" not in values, "on one's own machine the console needs none"


@pytest.mark.parametrize("kept", ["PLANWIRE_PUBLISH_KEY=mine\n", "PLANWIRE_PUBLISH_KEYS=dev:00\n"])
def test_publish_key_and_its_hash_always_fit(tmp_path: Path, kept: str) -> None:
    (tmp_path / "dev.env").write_text(kept)
    values = dev_env.ensure(tmp_path, {})
    assert values["PLANWIRE_PUBLISH_KEYS"] == names_hash(values["PLANWIRE_PUBLISH_KEY"])


def test_environment_wins_and_an_empty_variable_is_none() -> None:
    values = {"PLANWIRE_JWT_SECRET": "made", "PLANWIRE_CONSOLE_TOKEN": "made"}
    environ = {"PLANWIRE_JWT_SECRET": "given", "PLANWIRE_CONSOLE_TOKEN": "", "HOME": "/root"}
    assert dev_env.overlay(environ, values) == {
        "PLANWIRE_JWT_SECRET": "given",
        "PLANWIRE_CONSOLE_TOKEN": "made",
        "HOME": "/root",
    }


def test_a_given_publish_key_gets_its_own_hash() -> None:
    merged = dev_env.overlay({"PLANWIRE_PUBLISH_KEY": "given"}, dev_env.generate())
    assert merged["PLANWIRE_PUBLISH_KEYS"] == names_hash("given")


def test_given_publish_key_hashes_are_not_joined_by_a_key_that_does_not_fit() -> None:
    merged = dev_env.overlay({"PLANWIRE_PUBLISH_KEYS": "app:00"}, dev_env.generate())
    assert merged["PLANWIRE_PUBLISH_KEYS"] == "app:00"
    assert "PLANWIRE_PUBLISH_KEY" not in merged


def test_the_gateway_accepts_what_is_made() -> None:
    made = {name: value for name, value in dev_env.generate().items() if name != "PLANWIRE_PUBLISH_KEY"}
    GatewaySettings.from_env({name: value for name, value in made.items() if "PADDLE" not in name})


@pytest.mark.parametrize("environ", [{}, {"PLANWIRE_PUBLISH_KEY": "given"}])
def test_the_key_that_is_made_up_has_rights_under_the_name_that_older_builds_ignore(environ: dict[str, str]) -> None:
    merged = dev_env.overlay(environ, dev_env.generate())
    assert "PLANWIRE_PUBLISH_RIGHTS" not in merged
    read = {name: value for name, value in merged.items() if "PADDLE" not in name and name != "PLANWIRE_PUBLISH_KEY"}
    assert list(map(str, GatewaySettings.from_env(read).publish_rights)) == ["dev:publish+usage+tenants+admin:*"]


@pytest.mark.parametrize(
    "environ",
    [
        {"PLANWIRE_PUBLISH_KEYS": "app:00"},
        {"PLANWIRE_PUBLISH_RIGHTS": "dev:publish:*"},
        {"X_PLANWIRE_PUBLISH_RIGHTS": "dev:publish:*"},
    ],
)
def test_keys_and_rights_of_the_environment_are_left_alone(environ: dict[str, str]) -> None:
    merged = dev_env.overlay(environ, dev_env.generate())
    assert {name: value for name, value in merged.items() if "RIGHTS" in name or name in environ} == environ


def test_an_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "dev.env").mkdir()
    with pytest.raises(DevEnvError, match=r"cannot read .*dev\.env"):
        dev_env.ensure(tmp_path, {})


def test_an_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DevEnvError, match=r"cannot write .*dev\.env"):
        dev_env.ensure(tmp_path / "missing", {})
