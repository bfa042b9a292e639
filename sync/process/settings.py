"""The settings that every process has in common, and the base of all models.

Names come from the fields, values from the environment; errors show no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from planwire_client.core.commit import DEFAULT_PREFIX, check_prefix
from sync.core.errors import SyncError
from sync.process import environment
from sync.process.environment import DEFAULT_DATA_DIR, PREFIX, SettingNameError
from sync.process.logs import Form, Level


class SettingsError(SyncError):
    """The environment does not make a configuration; `problems` has one sentence each, none shows a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


class SettingsModel(BaseSettings):
    """Frozen settings. Field `x` is read from `PLANWIRE_X`. Units are in the names: `_s`, `_ms`, `_bytes`, `_per_s`.

    A field with `exclude` is read from no variable: other models make it. `error` is what `from_env` raises.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix=PREFIX)
    error: ClassVar[type[SettingsError]] = SettingsError

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the environment name of a field; the platforms set PORT without our prefix."""
        return "PORT" if field == "port" else f"{cls.model_config.get('env_prefix', '')}{field.upper()}"

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return environment name -> field."""
        return {cls.variable(field): field for field, info in cls.model_fields.items() if not info.exclude}

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings that `environ` gives; blank values count as absent.

        Raises:
            SettingsError: a name is unknown, a setting has two values, or a value has the wrong form or is missing.
        """
        return cls.parse(read(environ, cls))

    @classmethod
    def parse(cls, given: Mapping[str, str], **made: object) -> Self:
        """Return the settings that `given` has, and the fields that other models have `made`.

        Args:
            given: environment as `read` returns it; names of other models are ignored.

        Raises:
            SettingsError: a value has the wrong form, or is missing.
        """
        own = cls.variables()
        values: dict[str, Any] = {own[name]: value for name, value in given.items() if name in own and value}
        try:
            return cls(**values, **made)
        except ValidationError as error:
            raise cls.error([cls._sentence(detail) for detail in error.errors()]) from None

    @classmethod
    def _sentence(cls, detail: Mapping[str, Any]) -> str:
        """Return one line for one validation error, without the value: it may be a secret."""
        message = str(detail["msg"]).removeprefix("Value error, ")
        location = detail["loc"]
        return f"{cls.variable(str(location[0]))}: {message}" if location else message

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the one source there is: what `parse` passes, never the process's own environment."""
        return (init_settings,)


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
    data_dir: Path = Field(Path(DEFAULT_DATA_DIR), description="Folder of the embedded store and of dev.env.")
    durable: bool = Field(False, description="1: answer a publish or webhook only once it is on the store's disk.")
    watch_pid: int = Field(0, ge=0, description="Exit when this process ends. 0: none.")
    log_level: Level = Field("info", description="Least level that is logged: debug, info, warning or error.")
    log_format: Form = Field("json", description="json: one object a line. text: for terminals.")


def read(environ: Mapping[str, str], *models: type[SettingsModel]) -> dict[str, str]:
    """Return `environ` as `environment.read` does; the names of `models` are known too.

    Raises:
        SettingsError: a name is unknown, or a setting has two values.
    """
    try:
        return environment.read(environ, {name for model in models for name in model.variables()})
    except SettingNameError as error:
        raise models[0].error([str(error)]) from error
