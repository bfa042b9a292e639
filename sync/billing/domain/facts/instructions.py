"""What operators and the application have set for a tenant, beside its provider's events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sync.billing.domain.facts.model import Item


@dataclass(frozen=True, slots=True)
class ScheduledPlanChange:
    """A plan change at a later date, kept here because providers have none.

    Attributes:
        subscription: the key of its subscription.
        keep: the items that apply until `effective_ns`, even if the provider's body already shows another plan.
        execute_ns: when the provider is first asked to change the items, billed by `billing_mode`.
        executed: whether the provider has changed them.
        problem: the error code of the last attempt; "" for none.
        app: the application whose plan it changes; "" without applications, or for all of them.
    """

    subscription: str
    plan: str
    effective_ns: int
    keep: tuple[Item, ...]
    execute_ns: int = 0
    billing_mode: str = "do_not_bill"
    executed: bool = False
    problem: str = ""
    app: str = ""


PLAN = "plan"
"""The kind of an override that grants a plan, named by its key."""

VERSION = "version"
"""The kind of an override that moves the tenant to a version of the plan that it names."""


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator grants or takes away, whatever is paid for.

    Attributes:
        kind: `feature`, `limit`, `module`, PLAN or VERSION.
        value: the limit, the module's level, or True for a feature; None takes the name away. Of a plan: the number of
            units; True for as many as are paid for. Of a VERSION: its name.
        expires_ns: when it ends; None for never.
        by: who made it; "" if that is not known.
        trial: whether a plan is granted as a trial.
        at_ns: when it was made, for PLAN and VERSION; None if that is not known: as old as can be.
        app: the application that it is for; "" for all.
    """

    kind: str
    name: str
    value: bool | int | str | None
    reason: str
    expires_ns: int | None = None
    by: str = ""
    trial: bool = False
    at_ns: int | None = None
    app: str = ""

    @property
    def label(self) -> str:
        """Its kind, name and application in one text."""
        return label(self.kind, self.name, self.app)


def place(override: Override) -> int:
    """Return where an override stands among a tenant's: plans after the others, versions last, as they are stored."""
    return 1 if override.kind == PLAN else 2 * (override.kind == VERSION)


def label(kind: str, name: str, app: str = "") -> str:
    """Return KIND:NAME, with @APP if it is for one application."""
    return f"{kind}:{name}@{app}" if app else f"{kind}:{name}"


@dataclass(frozen=True, slots=True)
class AwaitedPreview:
    """The prediction of a confirmed preview, kept until the change lands or `until_ns` passes.

    Attributes:
        subscription: the key of the subscription that changes.
        items, status: the subscription's when the change lands.
        entitlements: the fields ENTITLEMENTS of the state that is published then, or of the state of `app` in it.
    """

    preview_id: str
    subscription: str
    items: tuple[Item, ...]
    status: str
    entitlements: Mapping[str, Any]
    until_ns: int
    app: str = ""


@dataclass(frozen=True, slots=True)
class AwaitedBill:
    """A charge that a confirmed preview has quoted; it is reported if no bill of it has arrived at `due_ns`.

    Attributes:
        subscription: the key of the subscription that is billed.
        reason: CHANGE or RENEWAL, see `domain.money`.
    """

    preview_id: str
    subscription: str
    reason: str
    due_ns: int


ENTITLEMENTS = ("plan", "status", "features", "limits", "modules")
"""The fields of a state that a preview predicts; the others depend on when the change happens."""
