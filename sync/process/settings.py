"""The settings that all processes share, and the base class of all settings models.

Names come from the fields, values from the environment. Errors never show secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from planwire_client.core.commit import DEFAULT_PREFIX, check_prefix
from sync.core.errors import SyncError
from sync.core.webhook_endpoints import Endpoint, parse_endpoints
from sync.process import environment
from sync.process.environment import DEFAULT_DATA_DIR, PREFIX, SettingNameError
from sync.process.logs import Form, Level


class SettingsError(SyncError):
    """The environment has wrong settings; `problems` has one sentence for each, without secrets."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


class SettingsModel(BaseModel):
    """Frozen settings. Field `x` is read from `PLANWIRE_X`. Units are in the names: `_s`, `_ms`, `_bytes`, `_per_s`.

    A field with `exclude` is read from no variable: other models make it. `error` is what `from_env` raises.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
    env_prefix: ClassVar[str] = PREFIX
    error: ClassVar[type[SettingsError]] = SettingsError

    @classmethod
    def variable(cls, field: str) -> str:
        """Return a field's environment variable; PORT has no prefix, since platforms set it."""
        return "PORT" if field == "port" else f"{cls.env_prefix}{field.upper()}"

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return environment name -> field."""
        return {cls.variable(field): field for field, info in cls.model_fields.items() if not info.exclude}

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in `environ`; blank values count as absent.

        Raises:
            SettingsError: a name is unknown, a setting has two values, or a value has the wrong form or is missing.
        """
        return cls.parse(read(environ, cls))

    @classmethod
    def parse(cls, given: Mapping[str, str], **made: object) -> Self:
        """Return the settings in `given`, with `made` for fields that other models make.

        Args:
            given: the result of `read`; names of other models are ignored.
            made: values of fields that are not read from the environment.

        Raises:
            SettingsError: a value has the wrong form, or is missing.
        """
        own = cls.variables()
        values: dict[str, Any] = {own[name]: value for name, value in given.items() if name in own and value}
        try:
            return cls(**values, **made)
        except ValidationError as error:
            problems = []
            for detail in error.errors():  # without the value, which may be a secret
                name = f"{cls.variable(str(detail['loc'][0]))}: " if detail["loc"] else ""
                problems.append(name + detail["msg"].removeprefix("Value error, "))
            raise cls.error(problems) from None


def _endpoints(value: object) -> object:
    return parse_endpoints(value) if isinstance(value, str) else value


class StoreSettings(SettingsModel):
    """The base of the web process's settings and of the worker's.

    Attributes:
        dev: whether this is a development machine; each model says what else that allows.
    """

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
    webhook_endpoints: Annotated[tuple[Endpoint, ...], BeforeValidator(_endpoints)] = Field(
        (),
        description="Your backends that are told of changes (docs/webhooks.md): NAME URL SECRET, comma separated; "
        "several secrets for rotation. The web process, the worker and the relay need the same.",
    )
    dev: bool = False

    @model_validator(mode="after")
    def _confidential(self) -> Self:
        for endpoint in () if self.dev else self.webhook_endpoints:
            if not endpoint.is_confidential:
                raise ValueError(
                    f"{PREFIX}WEBHOOK_ENDPOINTS: {endpoint.name} must be https, or http on a loopback host"
                )
        return self


def read(environ: Mapping[str, str], *models: type[SettingsModel]) -> dict[str, str]:
    """Return the result of `environment.read`; the settings of `models` count as known too.

    Raises:
        SettingsError: a name is unknown, or a setting has two values.
    """
    try:
        return environment.read(environ, {name for model in models for name in model.variables()})
    except SettingNameError as error:
        raise models[0].error([str(error)]) from error
