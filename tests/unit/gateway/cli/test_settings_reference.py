"""The list of settings has every name there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from click.testing import CliRunner, Result
from pydantic import Field, SecretStr

from gateway import cli, settings
from gateway.cli.settings_reference import Reader, Setting, collect
from gateway.settings import GatewaySettings
from sync.process import environment
from sync.process.settings import SettingsModel


class First(SettingsModel):
    port: int = Field(80, description="Where.")
    wait_ms: float = Field(1.5, gt=0, le=9, description="How <long> | what.")
    key: SecretStr = Field(SecretStr(""), description="Opens.")


class Second(SettingsModel):
    key: SecretStr = Field(SecretStr(""), description="Another sentence.")
    names: Annotated[tuple[str, ...], Field(description="Names.")] = ("a", "b")
    is_on: bool = Field(True, description="On.")
    file: Path | None = Field(None, description="File.")


def listed() -> tuple[Setting, ...]:
    return collect(
        Reader(First, ("one",), {"port": "Here", "key": "Secret"}), Reader(Second, ("two",), {"key": "There"})
    )


def planwire(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["settings", *arguments])


def test_each_setting_stands_once_with_everyone_who_reads_it() -> None:
    found = {setting.name: setting for setting in listed()}
    assert list(found)[:4] == ["PORT", "PLANWIRE_WAIT_MS", "PLANWIRE_KEY", "PLANWIRE_NAMES"]
    assert found["PORT"] == Setting("PORT", "80", "", "", "Where.", ("one",), "Here")
    assert found["PLANWIRE_WAIT_MS"] == Setting(
        "PLANWIRE_WAIT_MS", "1.5", "milliseconds", "above 0, at most 9", "How <long> | what.", ("one",), "Here"
    )
    assert found["PLANWIRE_KEY"] == Setting("PLANWIRE_KEY", "", "", "", "Opens.", ("one", "two"), "Secret")
    assert [found[f"PLANWIRE_{name}"].default for name in ("NAMES", "IS_ON", "FILE")] == ["a,b", "1", ""]
    assert found["PLANWIRE_FILE"].section == "There"


def test_the_command_lists_every_name_there_is() -> None:
    found = json.loads(planwire("--json").output)
    names = {setting["name"] for setting in found}
    assert len(names) == len(found)
    assert names - environment.NAMES == {"PORT", "WEB_CONCURRENCY"}
    assert names >= environment.NAMES
    assert [setting["name"] for setting in found if not setting["description"] or not setting["section"]] == []
    for name in names:
        assert f"  {name}=" in planwire().output


def test_no_default_is_a_secret_that_opens_something() -> None:
    found = {setting["name"]: setting["default"] for setting in json.loads(planwire("--json").output)}
    for name in ("JWT_SECRET", "PUBLISH_KEYS", "PUBLISH_KEY", "CONSOLE_TOKEN", "PADDLE_SECRETS", "PADDLE_API_KEYS"):
        assert found[f"PLANWIRE_{name}"] == ""


def test_the_sections_begin_at_fields_that_there_are() -> None:
    assert settings.SECTIONS.keys() <= GatewaySettings.model_fields.keys()
    assert next(iter(GatewaySettings.model_fields)) in settings.SECTIONS
