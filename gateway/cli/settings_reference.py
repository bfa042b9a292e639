"""All settings of all processes, from the settings models. Used by `planwire settings` and docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from sync.process.settings import SettingsModel

UNITS = {"_per_s": "per second", "_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes"}
"""Suffix of a field's name -> its unit; longer suffixes first."""

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Setting(NamedTuple):
    """One setting.

    Attributes:
        default: as written in the environment; empty for none.
        unit, bounds: empty for none.
        used_by: processes: web, intake (inside web), worker, outbox, command line.
    """

    name: str
    default: str
    unit: str
    bounds: str
    description: str
    used_by: tuple[str, ...]
    section: str

    @property
    def facts(self) -> str:
        """Unit and bounds as text."""
        return ", ".join(filter(None, (self.unit, self.bounds)))


class Reader(NamedTuple):
    """A settings model, the processes that read it, and its sections: first field -> heading."""

    model: type[SettingsModel]
    processes: tuple[str, ...]
    sections: Mapping[str, str]


_OUTBOX_URL = "The applications' database, whose outbox table is relayed: postgresql://user@host/name."
_PUBLISH_KEY = "The key that the command line publishes with, in plain; `make run` makes one."
BESIDE = tuple(
    Setting(name, default, "", bounds, text, (process,), "Beside these")
    for name, default, bounds, text, process in (
        ("WEB_CONCURRENCY", "1", "at least 1, at most 256", "Web processes on the port.", "web"),
        ("PLANWIRE_OUTBOX_URL", "", "", _OUTBOX_URL, "outbox"),
        ("PLANWIRE_PUBLISH_KEY", "", "", _PUBLISH_KEY, "command line"),
    )
)
"""Settings outside the models."""


def everything() -> tuple[Setting, ...]:
    """Return all settings."""
    from gateway.settings import SECTIONS, GatewaySettings
    from sync.billing.providers.registry import PROVIDERS
    from sync.settings import SyncSettings

    billing = ("intake", "worker")
    return collect(
        Reader(GatewaySettings, ("web",), SECTIONS),
        Reader(SyncSettings, billing, {"redis_url": "Billing"}),
        *(Reader(spec.settings, billing, {"secrets": spec.title}) for spec in PROVIDERS.values()),
    )


def collect(*readers: Reader) -> tuple[Setting, ...]:
    """Return every setting once, in the models' order, followed by those outside the models.

    A setting of several models has the position and description of the first one.
    """
    found: dict[str, Setting] = {}
    for reader in readers:
        section = ""
        for name, field in reader.model.variables().items():
            section = reader.sections.get(field, section)
            if name in found:
                found[name] = found[name]._replace(used_by=(*found[name].used_by, *reader.processes))
                continue
            info = reader.model.model_fields[field]
            text = info.description or ""
            unit = next((unit for ending, unit in UNITS.items() if field.endswith(ending)), "")
            found[name] = Setting(name, _default(info), unit, _bounds(info), text, reader.processes, section)
    return (*found.values(), *BESIDE)


def lines(settings: Iterable[Setting]) -> list[str]:
    """Return the list for a terminal: a heading for each section, two lines for each setting."""
    shown: list[str] = []
    for section, members in groupby(settings, lambda setting: setting.section):
        shown += ["", section]
        for setting in members:
            facts = f"  ({setting.facts})" if setting.facts else ""
            shown.append(f"  {setting.name}={setting.default}{facts}")
            shown.append(f"      {setting.description} [{', '.join(setting.used_by)}]")
    return shown[1:]


def _default(info: FieldInfo) -> str:
    """Return the default as it is written in the environment."""
    match info.default:
        case None:
            return ""
        case bool() as switch:
            return "1" if switch else "0"
        case SecretStr() as secret:
            return secret.get_secret_value()
        case tuple() as items:
            return ",".join(map(str, items))
        case value:
            return str(value)


def _bounds(info: FieldInfo) -> str:
    found = [
        f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}"
        for constraint in info.metadata
        for limit, word in BOUNDS.items()
        if (value := getattr(constraint, limit, None)) is not None
    ]
    return ", ".join(found)
