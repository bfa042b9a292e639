"""Scenario files: finds, reads and checks them. The format:

title = "Reordered"
tenants = 8                          how many
env = "live"                         whose prices the bodies carry
parallel = 4                         deliveries under way at once
step_s = 60                          the longest time between two actions of the history
history = [{ do = "upgrade", plan = "pro" }]
actions = 10                         drawn for each tenant from the mix, after the history
mix = { seats = 3, cancel = 1 }      action -> weight

[faults]                             see `script.Faults`
reorder = 0.5
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sync.core.errors import SyncError
from sync.simulator.scenarios.script import Faults, Scenario
from sync.simulator.world.actions import ACTIONS
from sync.simulator.world.model import Json


class ScenarioError(SyncError):
    """The scenario cannot be used; `name` of the file and what is wrong, in one line."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


def bundled() -> tuple[str, ...]:
    """The names of the scenarios that come with the simulator."""
    files = resources.files("sync.simulator").joinpath("scenarios").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name: str) -> Scenario:
    """The scenario in a file, or the bundled one of that name.

    Raises:
        ScenarioError: there is none, or it cannot be used.
    """
    if name in bundled():
        text = resources.files("sync.simulator").joinpath("scenarios", f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = Path(name).read_text("utf-8")
        except OSError as error:
            known = ", ".join(bundled())
            raise ScenarioError(name, f"{error.strerror}; the bundled scenarios are: {known}") from error
        except UnicodeDecodeError as error:
            raise ScenarioError(name, "not UTF-8") from error
    return parse(text, name)


def parse(text: str, name: str = "scenario") -> Scenario:
    """The scenario that TOML `text` describes; `name` is what errors call it.

    Raises:
        ScenarioError: the first thing that is wrong.
    """
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(name, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScenarioError(name, f"{where}: {first['msg'].lower()}") from error
    for entry in file.history:
        if not isinstance(entry.get("do"), str):
            raise ScenarioError(name, 'history: each entry needs an action, as { do = "upgrade" }')
    unknown = sorted(({str(entry["do"]) for entry in file.history} | set(file.mix)) - set(ACTIONS))
    if unknown:
        raise ScenarioError(name, f"unknown action {unknown[0]}; the actions are: {', '.join(ACTIONS)}")
    if not file.history and not (file.mix and file.actions):
        raise ScenarioError(name, "nothing happens: give a history, or actions and a mix")
    faults = Faults(**file.faults.model_dump())
    if faults.outage_to < faults.outage_from:
        raise ScenarioError(name, "faults.outage_to must not be below outage_from")
    return Scenario(
        file.title, file.env, file.tenants, file.history, file.mix, file.actions, file.step_s, file.parallel, faults
    )


class _Faults(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reorder: float = Field(0.0, ge=0, le=1)
    window: int = Field(10, ge=1, le=10_000)
    duplicate: float = Field(0.0, ge=0, le=1)
    drop: float = Field(0.0, ge=0, le=1)
    late: float = Field(0.0, ge=0, le=1)
    stale: float = Field(0.0, ge=0, le=1)
    forge: float = Field(0.0, ge=0, le=1)
    skew_s: int = Field(0, ge=0, le=86_400)
    ahead_s: int = Field(0, ge=-31_536_000, le=31_536_000)
    outage_from: float = Field(0.0, ge=0, le=1)
    outage_to: float = Field(0.0, ge=0, le=1)
    outage_s: float = Field(0.0, ge=0, le=600)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str
    env: str = "live"
    tenants: int = Field(5, ge=1, le=1_000)
    history: tuple[dict[str, Json], ...] = ()
    mix: dict[str, Annotated[int, Field(ge=1, le=1_000)]] = {}
    actions: int = Field(0, ge=0, le=1_000)
    step_s: int = Field(60, ge=1, le=86_400)
    parallel: int = Field(1, ge=1, le=64)
    faults: _Faults = _Faults.model_validate({})
