"""The settings that every process has in common: which store it uses, when it leaves, and how it logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from planwire_client.core.names import DEFAULT_PREFIX, check_prefix
from sync.process.logs import Form, Level
from sync.process.settings_base import SettingsModel


class StoreSettings(SettingsModel):
    """The base of the web process's settings and of the worker's."""

    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Store: redis://, rediss://, unix://, redis+sentinel://HOST:PORT,.../SERVICE, "
        "redis+cluster://HOST:PORT,..., and rediss+sentinel://, rediss+cluster:// with TLS. Empty: the embedded one.",
    )
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        DEFAULT_PREFIX, description="What every key and channel in the store begins with: one for each installation."
    )
    data_dir: Path = Field(Path(".planwire"), description="Folder of the embedded store and of dev.env.")
    durable: bool = Field(False, description="1: answer a publish or webhook only once it is on the store's disk.")
    watch_pid: int = Field(0, ge=0, description="Exit when this process ends. 0: none.")
    log_level: Level = Field("info", description="Least level that is logged: debug, info, warning or error.")
    log_format: Form = Field("json", description="json: one object a line. text: for terminals.")
