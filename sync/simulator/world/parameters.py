"""The parameters of control actions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sync.simulator.world.errors import in_words, invalid_parameter
from sync.simulator.world.model import InstantUs, Json
from sync.simulator.world.rules import QUANTITY_MAX

P = TypeVar("P", bound=BaseModel)
Text = Annotated[str, Field(min_length=1)]


class Params(BaseModel):
    """The parameters of an action, each with the default that counts where it is not given."""

    model_config = ConfigDict(frozen=True, strict=True)

    tenant: Text
    env: Text | None = None
    subscription_id: Text | None = None
    wait: bool = False
    deliver: bool = True
    plan: Text | None = None
    addon: Text | None = None
    app: Text | None = None
    quantity: Annotated[int, Field(ge=1, le=QUANTITY_MAX)] | None = None
    new: bool = False
    linked: bool = True
    days: Annotated[int, Field(ge=1, le=365)] = 14
    ends_in_s: Annotated[int, Field(ge=1, le=366 * 24 * 3600)] | None = None
    when: Literal["period_end", "now"] = "period_end"
    resume_at: InstantUs | None = None
    transaction_id: Text | None = None
    amount: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None

    @property
    def rate_bp(self) -> int:
        """Return `percent` in basis points."""
        if self.percent is None:
            raise invalid_parameter("percent must be a number from 0 to 100; at most two decimals count")
        return round(self.percent * 100)


COMMON = frozenset({"tenant", "env", "app", "subscription_id", "wait", "deliver"})
"""The parameters that every action takes."""


def validated(kind: type[P], values: Mapping[str, Json]) -> P:
    """Return `values` as parameters of this kind.

    Raises:
        ControlError: a parameter is missing or wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise invalid_parameter(in_words(error)) from error
