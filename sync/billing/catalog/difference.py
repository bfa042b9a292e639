"""What an edit of the catalog changes: who gains and who loses what. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sync.billing.catalog.catalog import LEVELS, UNLIMITED, Catalog
from sync.billing.catalog.tables import Addon, Ignored, Offer, Plan
from sync.core import instants

PARTS = {"features": "feature", "limits": "limit", "per_unit": "limit per unit", "modules": "module"}
"""The parts of what an offer grants -> the word for one of them."""


class Difference(NamedTuple):
    """What somebody gains, loses, or has under another name; each as one line."""

    gains: list[str]
    loses: list[str]
    renames: list[str]

    @property
    def is_any(self) -> bool:
        """Whether there is a difference."""
        return bool(self.gains or self.loses or self.renames)


class Affected(NamedTuple):
    """The customers of one kind, and what the edit changes for them.

    Attributes:
        who: `existing` customers of an offer, `new` ones, or tenants `without` a subscription.
        offer: the plan's or add-on's key.
        version: the version that existing customers of a plan have; "" for others.
        becomes: what they have afterwards: PLAN, PLAN VERSION or an add-on; "" if the catalog no longer has it.
        prices: how many prices, lookup keys and products lead to it.
    """

    who: str
    offer: str
    version: str
    becomes: str
    difference: Difference
    prices: int = 0


def granted(offer: Offer | None) -> dict[str, Any]:
    """Return what an offer grants, as `compared` takes it."""
    if offer is None:
        return {}
    parts = {"features": dict.fromkeys(offer.features, True), "per_unit": offer.per_unit.limits}
    return {"name": offer.name, "limits": offer.limits, "modules": offer.modules, **parts}


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference:
    """Return the difference of what is granted: the parts PARTS, and a name; of an offer or of a state."""
    found = Difference([], [], [])
    for part, word in PARTS.items():
        old, new = before.get(part, {}), after.get(part, {})
        for name in sorted({**old, **new}):
            was, now = old.get(name), new.get(name)
            if was != now:
                shown = f"{word} {name}" if word == "feature" else f"{word} {name}: {_text(was)} -> {_text(now)}"
                (found.gains if _size(now) > _size(was) else found.loses).append(shown)
    if before.get("name") != after.get("name") and before.get("name") and after.get("name"):
        found.renames.append(f"name: {before['name']} -> {after['name']}")
    return found


def affected(old: Catalog, new: Catalog, now_ns: int) -> Iterator[Affected]:
    """Yield everybody whom the edit can affect, also those for whom it changes nothing.

    Existing customers are those who have bought before `now_ns`.
    """
    yield Affected(
        "without", old.default.key, "", new.default.key, compared(granted(old.default), granted(new.default))
    )
    seen: dict[tuple[str, str, str], int] = {}
    rows: dict[tuple[str, str, str], Affected] = {}
    for (provider, environment), listed in old.index.items():
        for (table, id), entry in listed.items():
            if isinstance(entry, Ignored):
                continue
            ids = {"prices": "", "lookup_keys": "", "products": "", table: id}
            then = new.find(provider, environment, ids["prices"], ids["lookup_keys"], ids["products"])
            for row in _holders(entry, None if isinstance(then, Ignored) else then, old, new, now_ns):
                key = (row.offer, row.version, row.becomes)
                rows.setdefault(key, row)
                seen[key] = seen.get(key, 0) + 1
    yield from (row._replace(prices=seen[key]) for key, row in rows.items())
    for offers in ((old.plans, new.plans), (old.addons, new.addons)):
        for key in {**offers[0], **offers[1]}:
            before, after = offers[0].get(key), offers[1].get(key)
            yield Affected("new", key, "", "" if after is None else key, compared(granted(before), granted(after)))


def _holders(
    entry: Plan | Addon, then: Plan | Addon | None, old: Catalog, new: Catalog, now_ns: int
) -> Iterator[Affected]:
    """Yield the existing customers of one price: of a plan with versions those of each that it can have bought."""
    versions = old.versions.get(entry.key) if isinstance(entry, Plan) else None
    moments = [now_ns - 1]
    if versions is not None:
        moments += [until_ns - 1 for until_ns, _ in versions.dated if until_ns < now_ns]
    if isinstance(then, Plan) and then.key in new.versions:
        moments += [until_ns - 1 for until_ns, _ in new.versions[then.key].dated if until_ns < now_ns]
    for at_ns in sorted(set(moments)):
        had = entry if versions is None or not isinstance(entry, Plan) else versions.bought(entry, at_ns)
        has = (
            new.versions[then.key].bought(then, at_ns) if isinstance(then, Plan) and then.key in new.versions else then
        )
        becomes = "" if has is None else has.key
        if isinstance(has, Plan) and has.key in new.versions:
            becomes = f"{has.key} {has.version}"
        version = had.version if isinstance(had, Plan) and versions is not None else ""
        difference = Difference([], [], []) if has is None else compared(granted(had), granted(has))
        yield Affected("existing", entry.key, version, becomes, difference)


def version_block(plan: Plan, name: str, now_ns: int) -> str:
    """Return the version to add to a catalog, so that existing customers keep the present terms of a plan."""
    offered = granted(plan)
    lines = [f"[[plans.{plan.key}.versions]]", f'version = "{name}"', f"until = {instants.text(now_ns)}"]
    lines += [f"name = {_toml(plan.name)}", f"features = {_toml(list(plan.features))}"]
    lines += [f"limits = {_toml(offered['limits'])}", f"per_unit.limits = {_toml(offered['per_unit'])}"]
    return "\n".join([*lines, f"modules = {_toml(offered['modules'])}"])


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int) else _quoted(str(value))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08X}" for each in escaped) + '"'


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _size(value: object) -> float:
    """Return the size of a feature, limit or module: they are compared with those of the same kind."""
    if value is None:
        return -1
    if isinstance(value, str):
        return float("inf") if value == UNLIMITED else LEVELS.index(value)
    return float(value) if isinstance(value, int) else -1
