"""Scenario files: finds, reads and checks them. The format:

title = "Reordered"
tenants = 8                          how many
env = "live"                         whose prices the bodies carry
parallel = 4                         deliveries under way at once
step_s = 60                          the longest time between two actions of the history
history = [{ do = "upgrade", plan = "pro" }]
actions = 10                         drawn for each tenant from the mix, after the history
mix = { seats = 3, cancel = 1 }      action -> weight

[faults]                             see `Faults`
reorder = 0.5
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sync.core.errors import SyncError
from sync.simulator.world.actions import ACTIONS
from sync.simulator.world.errors import in_words
from sync.simulator.world.model import Json

BUNDLED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}
"""The scenarios that come with the simulator, by name."""

_EXACT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, config=_EXACT)
class Faults:
    """What goes wrong on the way. Shares are from 0 to 1, of the deliveries.

    `reorder`: moved by up to `window` places. `duplicate`: sent twice, as a retry or as a replay under a new
    notification id. `drop`: the first attempt lost, the event sent again later. `late`: held back to the end. `stale`:
    first sent with a signature too old, which must be refused. `forge`: followed by an altered copy that is signed with
    another secret, which must be refused. `skew_s`: the signing clock is off by up to so much either way.
    `ahead_s`: the provider's own clock, and so every stamp in the bodies, is ahead by so much.
    `outage_from` to `outage_to`: this part of the deliveries finds nobody, and comes after it in any order.
    """

    reorder: Share = 0.0
    window: Annotated[int, Field(ge=1, le=10_000)] = 10
    duplicate: Share = 0.0
    drop: Share = 0.0
    late: Share = 0.0
    stale: Share = 0.0
    forge: Share = 0.0
    skew_s: Annotated[int, Field(ge=0, le=86_400)] = 0
    ahead_s: Annotated[int, Field(ge=-31_536_000, le=31_536_000)] = 0
    outage_from: Share = 0.0
    outage_to: Share = 0.0
    outage_s: Annotated[float, Field(ge=0, le=600)] = 0.0


@dataclass(frozen=True, slots=True, config=_EXACT)
class Scenario:
    """What happens to how many tenants, and what goes wrong on the way.

    `history`: done for every tenant, in turns. `mix`: action -> weight, drawn `actions` times for each tenant after
    that. `step_s`: the longest time between two actions. `parallel`: how many deliveries are under way at once.
    """

    title: str
    env: str = "live"
    tenants: Annotated[int, Field(ge=1, le=1_000)] = 5
    history: tuple[Mapping[str, Json], ...] = ()
    mix: Mapping[str, Annotated[int, Field(ge=1, le=1_000)]] = Field(default_factory=dict)
    actions: Annotated[int, Field(ge=0, le=1_000)] = 0
    step_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    faults: Faults = Faults()


_SCENARIO = TypeAdapter(Scenario)


class ScenarioError(SyncError):
    """The scenario cannot be used; `name` of the file and what is wrong, in one line."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")


def load(name: str) -> Scenario:
    """The scenario in a file, or the bundled one of that name.

    Raises:
        ScenarioError: there is none, or it cannot be used.
    """
    try:
        return parse(BUNDLED.get(name, Path(name)).read_text("utf-8"), name)
    except OSError as error:
        raise ScenarioError(name, f"{error.strerror}; the bundled scenarios are: {', '.join(BUNDLED)}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(name, "not UTF-8") from error


def parse(text: str, name: str) -> Scenario:
    """The scenario that TOML `text` describes; `name` is what errors call it.

    Raises:
        ScenarioError: the first thing that is wrong.
    """
    try:
        found = _SCENARIO.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(name, str(error)) from error
    except ValidationError as error:
        raise ScenarioError(name, in_words(error)) from error
    if not all(isinstance(entry.get("do"), str) for entry in found.history):
        raise ScenarioError(name, 'history: each entry needs an action, as { do = "upgrade" }')
    unknown = sorted(({str(entry["do"]) for entry in found.history} | set(found.mix)) - set(ACTIONS))
    if unknown:
        raise ScenarioError(name, f"unknown action {unknown[0]}; the actions are: {', '.join(ACTIONS)}")
    if not found.history and not (found.mix and found.actions):
        raise ScenarioError(name, "nothing happens: give a history, or actions and a mix")
    if found.faults.outage_to < found.faults.outage_from:
        raise ScenarioError(name, "faults.outage_to must not be below outage_from")
    return found
