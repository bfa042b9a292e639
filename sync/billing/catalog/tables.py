"""The tables of a catalog's document as frozen values, and the checks of what is in them. Pure."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sync.billing.catalog import values
from sync.billing.catalog.values import OURS, ShadowFields, Texts, check_known, wrong


class _Table(BaseModel):
    """A table that accepts only the model's keys."""

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise wrong("must be a table")
        fields = {field.alias or name: field for name, field in cls.model_fields.items() if name != "key"}
        check_known(value, fields)
        for name, field in fields.items():
            if field.is_required() and name not in value:
                raise wrong(f"needs a {name}")
        return value


class Policy(_Table):
    """The grace period in nanoseconds; what to do with each kind of change when it is overdue; whom to trust.

    `second_customer` is about subscriptions of another customer than the tenant's own, `unsigned_tenant` about names
    without a signed reference: "accept" or "park". `refund` is about subscriptions whose payment went back. `app` is
    the leading application, "" for none. `combine` is about a limit that two subscriptions of one plan have, by the
    limit's name or EVERY_LIMIT: "sum" or "max" (the default).
    """

    grace_ns: values.Duration = Field(default=values.GRACE_DEFAULT_NS, alias="grace")
    overdue: values.Overdue = dict.fromkeys(values.OVERDUE_KINDS, "hold")
    second_customer: values.Trust = "accept"
    unsigned_tenant: values.Trust = "accept"
    refund: values.Refund = "keep"
    app: values.App = ""
    combine: values.Combined = {}

    def is_summed(self, limit: str) -> bool:
        """Return whether the amounts of a limit are added up where two subscriptions of one plan have it."""
        return self.combine.get(limit, self.combine.get(values.EVERY_LIMIT, "max")) == "sum"


class PerUnit(_Table):
    """Limits per unit of quantity."""

    limits: dict[str, values.Count] = {}


class Sold(_Table):
    """By what an item is recognised: its price, the lookup key of that, or its product."""

    prices: values.Ids = {}
    lookup_keys: values.Ids = {}
    products: values.Ids = {}


SOLD_BY = tuple(Sold.model_fields)
"""The tables of `Sold`, the most specific first."""


def _or_none(ns: int) -> int | None:
    return ns or None


class Offer(Sold):
    """What a plan or an add-on grants in its application, also per unit of quantity. Without `app`: in each of them.

    `purchase`: whether a one-time purchase buys it; then for `expires_ns` nanoseconds, None for ever. `credits`: units
    of meters of that kind: in each period of a subscription, or once by a purchase.
    """

    key: str = ""
    name: values.Text
    app: values.App = ""
    features: Texts = ()
    limits: values.Limits = {}
    per_unit: PerUnit = PerUnit()
    modules: values.Modules = {}
    credits: values.Amounts = {}
    purchase: values.Flag = False
    expires_ns: Annotated[values.Expiry, AfterValidator(_or_none)] | None = Field(default=None, alias="expires")

    @model_validator(mode="after")
    def _check_expiry(self) -> Self:
        if self.expires_ns is not None and not self.purchase:
            raise wrong("is for what a purchase buys: add purchase = true", "expires")
        return self


class Addon(Offer):
    """One add-on: adds to the tenant's plan."""


class PlanVersion(Sold):
    """Earlier terms of a plan, which those keep who have bought them. A field that is None is as in the plan.

    They are those of the prices listed here, and of the plan's own prices if they were bought before `until_ns`. Of
    `expires_ns`, 0 is for ever.
    """

    version: values.Version
    until_ns: values.Instant | None = Field(default=None, alias="until")
    name: values.Text | None = None
    features: Texts | None = None
    limits: values.Limits | None = None
    per_unit: PerUnit | None = None
    modules: values.Modules | None = None
    credits: values.Amounts | None = None
    expires_ns: values.Expiry | None = Field(default=None, alias="expires")


CURRENT = "current"
"""The name of a plan's present terms, if the plan gives them none."""


class Plan(Offer):
    """One plan; of several, the highest `rank` wins. `version` names the terms that it has for new customers."""

    rank: values.Rank
    default: values.Flag = False
    version: values.Version = CURRENT
    versions: Annotated[list[PlanVersion], values.ENTRIES] = []


NO_PLAN = Plan.model_construct(key="", name="", rank=-1)
"""The default plan of an application without one: it grants nothing, and no state shows it."""


class Meter(_Table):
    """How the use of a limit is counted.

    Attributes:
        kind: `consumable`: units that are used up, and come back with the next window. `allocated`: units that are
            taken and given back, such as seats. `credits`: as consumable, with units that are bought or granted once.
        reset: when the count begins anew: with the billing period, each month, or never.
        limit: the name of the limit in the state.
        app: the application whose limit and period count; "" for the tenant's.
        overage: what happens at the limit. `deny`: a call that does not fit is denied. `soft`: a call is allowed while
            anything is left, even if it takes more. `allow`: all calls are allowed.
        at_plan_change: what a change of the plan within a window does to what was used: `keep`, `scale` (the same share
            of the new limit), `reset`.
        thresholds: percentages of the limit that are reported when they are reached, rising.
    """

    key: str = ""
    kind: values.MeterKind
    reset: values.Reset = "never"
    limit: values.Key = ""
    app: values.App = ""
    overage: values.Overage = "deny"
    at_plan_change: values.AtPlanChange = "keep"
    thresholds: values.Thresholds = (80, 100)


class Ignored(Sold):
    """What other software sells on the same provider accounts."""


class Shadow(_Table):
    """How the answers of the entitlement system that exists are read, while billing runs in its shadow.

    `fields`: a field of our state -> its path in their answer. `values`: a field of ours -> their word -> ours.
    `ignore`: fields of ours that are not compared.
    """

    fields: ShadowFields = {name: name for name in OURS.split(", ")}
    values: dict[str, dict[str, str | int | bool]] = {}
    ignore: Texts = ()


class Document(_Table):
    """A catalog's whole document."""

    policy: Policy = Policy()
    plans: dict[values.Key, Plan] = {}
    addons: dict[values.Key, Addon] = {}
    meters: dict[values.Key, Meter] = {}
    ignore: Ignored = Ignored()
    shadow: Shadow | None = None
