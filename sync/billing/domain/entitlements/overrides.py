"""Operators' overrides: the checks before one is added, and the facts with and without it. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from sync.billing.catalog.catalog import LEVELS, NUMBER_MAX, UNLIMITED, Plan
from sync.billing.domain.entitlements.applications import check_app
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.facts.instructions import PLAN, VERSION, Override, place
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.outcome import ChangeRejected

KINDS = ("feature", "limit", "module", PLAN, VERSION)
OVERRIDES_MAX = 100
"""Maximum number of overrides of one tenant."""

UNITS_MAX = 1_000_000_000
"""Maximum number of units of a granted plan."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def add_override(facts: Facts, override: Override, setting: Setting) -> Facts:
    """Return the facts with the override, which replaces one of the same name, and without expired ones.

    Raises:
        ChangeRejected: `app_unknown`, `override_invalid`, `plan_unknown`, `version_unknown` or `too_many_overrides`.
    """
    problem = _problem(override, setting.now_ns)
    if problem:
        raise ChangeRejected("override_invalid", problem)
    check_app(override.app, setting)
    if override.kind in (PLAN, VERSION):
        plan = _in_catalog(override, setting)
        if override.kind == VERSION:
            _check_version(override, plan, setting)
        override = _dated(replace(override, app=plan.app), facts, setting.now_ns)
    kept = [
        other
        for other in facts.overrides
        if not _is_same(other, override.kind, override.name, override.app) and is_active(other, setting.now_ns)
    ]
    if len(kept) >= OVERRIDES_MAX:
        raise ChangeRejected("too_many_overrides", f"a tenant has at most {OVERRIDES_MAX} overrides")
    return replace(facts, overrides=tuple(sorted((*kept, override), key=place)))


def is_active(override: Override, now_ns: int) -> bool:
    """Return whether the override has not ended."""
    return override.expires_ns is None or override.expires_ns > now_ns


def active_overrides(facts: Facts, now_ns: int) -> dict[str, list[str]]:
    """Return the field `overrides` of a cause: those active at `now_ns`, by their labels; {} if there are none."""
    names = [override.label for override in facts.overrides if is_active(override, now_ns)]
    return {"overrides": names} if names else {}


def remove_override(facts: Facts, kind: str, name: str, app: str = "") -> Facts:
    """Return the facts without an override.

    Args:
        app: the application that it is for; "" for all. A plan needs none.

    Raises:
        ChangeRejected: `not_found`: there is none of that name.
    """
    kept = tuple(other for other in facts.overrides if not _is_same(other, kind, name, app))
    if len(kept) == len(facts.overrides):
        of = f" for {app[:64]}" if app else ""
        raise ChangeRejected("not_found", f"no override of {kind[:20]} {name[:64]}{of} is there")
    return replace(facts, overrides=kept)


def _in_catalog(override: Override, setting: Setting) -> Plan:
    """Return the plan that is granted, or moved to a version.

    Raises:
        ChangeRejected: the catalog has no such plan, or the plan is of another application.
    """
    plan = setting.catalog.plans.get(override.name)
    if plan is None:
        known = ", ".join(sorted(setting.catalog.plans))
        raise ChangeRejected("plan_unknown", f"the catalog has no plan {override.name[:60]!r}: expected one of {known}")
    if override.app not in ("", plan.app):
        raise ChangeRejected("override_invalid", f"{override.name} is not a plan of {override.app}")
    return plan


def _check_version(override: Override, plan: Plan, setting: Setting) -> None:
    """Check that the plan has the version.

    Raises:
        ChangeRejected: it has not.
    """
    names = setting.catalog.version_names(plan)
    if override.value not in names:
        known = ", ".join(names) or f"none, as [plans.{plan.key}] names no version"
        problem = f"the plan {plan.key} has no version {str(override.value)[:64]!r}: expected one of {known}"
        raise ChangeRejected("version_unknown", problem)


def _dated(override: Override, facts: Facts, now_ns: int) -> Override:
    """Return the override with its time. A grant that goes on keeps its own: what was granted stays."""
    earlier = [one for one in facts.overrides if (one.kind, one.name) == (PLAN, override.name)]
    is_extended = override.kind == PLAN and any(is_active(one, now_ns) for one in earlier)
    return replace(override, at_ns=earlier[0].at_ns if is_extended else now_ns)


def _is_same(other: Override, kind: str, name: str, app: str) -> bool:
    """Return whether an override has this name. A plan's tells its application."""
    return (other.kind, other.name) == (kind, name) and (kind in (PLAN, VERSION) or other.app == app)


def _problem(override: Override, now_ns: int) -> str:
    value = override.value
    if override.kind not in KINDS:
        return f"kind must be one of {', '.join(KINDS)}"
    if not _NAME.fullmatch(override.name):
        return "name must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter"
    if override.expires_ns is not None and override.expires_ns <= now_ns:
        return "expires_at must lie ahead"
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_MAX
    if override.trial and override.kind != PLAN:
        return "only a plan can be granted as a trial"
    if override.trial and override.expires_ns is None:
        return "a trial needs expires_at"
    if override.kind == PLAN:
        if value is None:
            return "a plan that is paid for cannot be taken away: remove the grant, or cancel the subscription"
        is_units = is_number and isinstance(value, int) and 1 <= value <= UNITS_MAX
        return "" if value is True or is_units else f"the value of a plan is true, or its units from 1 to {UNITS_MAX}"
    if override.kind == VERSION:
        return "" if isinstance(value, str) else "the value is the name of a version; to undo a move, remove it"
    if value is None:
        return ""
    if override.kind == "feature" and value is not True:
        return "the value of a feature is true; to take it away, revoke it"
    if override.kind == "module" and value not in LEVELS:
        return f"the value of a module is one of {', '.join(LEVELS)}"
    if override.kind == "limit" and not is_number and value != UNLIMITED:
        return f'the value of a limit is a whole number from 0 to {NUMBER_MAX} (2^53-1), or "{UNLIMITED}"'
    return ""
