"""Scenario files: finds, reads and checks them. The format:

title = "Reordered"
tenants = 8                          number of tenants
env = "live"                         environment of the prices
parallel = 4                         deliveries in flight at once
step_s = 60                          maximum time between two actions
history = [{ do = "upgrade", plan = "pro" }]
actions = 10                         random actions per tenant from the mix, after the history
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
    """Delivery faults. Shares are from 0 to 1, of the deliveries.

    `reorder`: share moved by up to `window` places.
    `duplicate`: share sent twice, as a retry or as a replay under a new notification id.
    `drop`: share whose first attempt is lost; the event is sent again later.
    `late`: share delayed to the end.
    `stale`: share first sent with an expired signature, which the receiver must reject.
    `forge`: share followed by an altered copy, signed with another secret, which the receiver must reject.
    `skew_s`: maximum error of the signing clock, in both directions.
    `ahead_s`: the provider's clock, and so every timestamp in the bodies, is ahead by this time.
    `outage_from`, `outage_to`: deliveries between these shares of the whole fall into an outage, and are sent after it
    in random order.
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
    """The actions of a number of tenants, and the delivery faults.

    `history`: actions of every tenant, in turns. `mix`: action -> weight, for `actions` random actions per tenant after
    the history. `step_s`: maximum time between two actions. `parallel`: deliveries in flight at once.
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
    """The scenario cannot be used; the text is one line with the file's name and the reason."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")


def load(name: str) -> Scenario:
    """Return the bundled scenario `name`, or the scenario in the file of that path.

    Raises:
        ScenarioError: the file cannot be read, or the scenario cannot be used.
    """
    try:
        return parse(BUNDLED.get(name, Path(name)).read_text("utf-8"), name)
    except OSError as error:
        raise ScenarioError(name, f"{error.strerror}; the bundled scenarios are: {', '.join(BUNDLED)}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(name, "not UTF-8") from error


def parse(text: str, name: str) -> Scenario:
    """Return the scenario in TOML `text`; `name` is its name in errors.

    Raises:
        ScenarioError: the scenario has an error; the text has the first one.
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
