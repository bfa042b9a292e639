"""What an edit of the catalog changes: who gains and who loses what. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sync.billing.catalog.catalog import LEVELS, UNLIMITED, Catalog, Entry
from sync.billing.catalog.tables import Addon, Ignored, Meter, Offer, Plan
from sync.billing.catalog.values import EVERY_LIMIT, FOR_EVER, duration_text
from sync.core import instants

PARTS = {
    "features": "feature",
    "limits": "limit",
    "per_unit": "limit per unit",
    "modules": "module",
    "credits": "credits",
}
"""The parts of what an offer grants -> the word for one of them."""

NO_METER = "none"
"""The kind of a meter that one of two catalogs lacks."""


RULES, IGNORED = "rules", "[ignore]"
"""For `Affected`: the rules for all tenants; what becomes of a price that the edit ignores."""


class Difference(NamedTuple):
    """What somebody gains, loses, or has under another name or rule; each as one line."""

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
        who: `existing` customers of an offer, `new` ones, tenants `without` a subscription, or all by the RULES.
        offer: the plan's or add-on's key; of RULES the table of the catalog.
        version: the version that existing customers of a plan have; "" for others.
        becomes: what they have afterwards: PLAN, PLAN VERSION, an add-on, IGNORED; "" if the catalog no longer has it.
        ids: the prices, lookup keys and products that existing customers have bought by.
    """

    who: str
    offer: str
    version: str
    becomes: str
    difference: Difference
    ids: Sequence[str] = ()


def granted(offer: Offer | None) -> dict[str, Any]:
    """Return what an offer grants, as `compared` takes it."""
    if offer is None:
        return {}
    parts = {"features": dict.fromkeys(offer.features, True), "per_unit": offer.per_unit.limits}
    parts |= {"limits": offer.limits, "modules": offer.modules, "credits": offer.credits}
    return {"name": offer.name, "app": offer.app, **parts}


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
    if "app" in before and "app" in after and before["app"] != after["app"]:
        found.renames.append(f"app: {before['app'] or 'all'} -> {after['app'] or 'all'}")
    return found


def affected(old: Catalog, new: Catalog, now_ns: int) -> Iterator[Affected]:
    """Yield everybody whom the edit can affect, also those for whom it changes nothing.

    Existing customers are those who have bought before `now_ns`.
    """
    yield from _changed_rules(old, new)
    before, after = old.default, new.default
    yield Affected("without", before.key, "", after.key, compared(granted(before), granted(after)))
    for app in sorted({*old.apps} & {*new.apps} - {old.leading}):
        was, now = old.apps[app].default, new.apps[app].default
        if was.key or now.key:
            yield Affected("without", was.key, "", now.key, compared(granted(was), granted(now)))
    rows: dict[tuple[str, str, str], Affected] = {}
    for (provider, environment), listed in old.index.items():
        for (table, id), entry in listed.items():
            if isinstance(entry, Ignored):
                continue
            ids = {"prices": "", "lookup_keys": "", "products": "", table: id}
            then = new.find(provider, environment, ids["prices"], ids["lookup_keys"], ids["products"])
            for row in _holders(entry, then, old, new, now_ns):
                kind = (row.offer, row.version, row.becomes)
                known = rows.setdefault(kind, row)
                rows[kind] = known._replace(ids=tuple(dict.fromkeys((*known.ids, id))))
    yield from rows.values()
    olds: dict[str, Offer] = {**old.addons, **old.plans}
    news: dict[str, Offer] = {**new.addons, **new.plans}
    for key in {**olds, **news}:
        difference = compared(granted(olds.get(key)), granted(news.get(key)))
        yield Affected("new", key, "", key if key in news else "", difference)


def _holders(entry: Plan | Addon, then: Entry | None, old: Catalog, new: Catalog, now_ns: int) -> Iterator[Affected]:
    """Yield the existing customers of one price: of a plan with versions those of each that it can have bought."""
    moments = {now_ns - 1}
    for catalog, offer in ((old, entry), (new, then)):
        if isinstance(offer, Plan) and offer.key in catalog.versions:
            moments |= {until_ns - 1 for until_ns, _ in catalog.versions[offer.key].dated if until_ns < now_ns}
    for at_ns in sorted(moments):
        had, version = _bought(entry, at_ns, old)
        has, becomes = _bought(then, at_ns, new)
        difference = Difference([], [], []) if then is None else compared(granted(had), granted(has))
        name = "" if then is None else IGNORED if has is None else f"{has.key} {becomes}".rstrip()
        yield Affected("existing", entry.key, version, name, difference)


def _bought(entry: Entry | None, at_ns: int, catalog: Catalog) -> tuple[Offer | None, str]:
    """Return what was bought at an instant, and the name of the version, of a plan that has versions."""
    offer = entry if isinstance(entry, Offer) else None
    if not isinstance(offer, Plan) or offer.key not in catalog.versions:
        return offer, ""
    found = catalog.versions[offer.key].bought(offer, at_ns)
    return found, found.version


def _changed_rules(old: Catalog, new: Catalog) -> Iterator[Affected]:
    """Yield the tables whose rules differ: they decide for all tenants, also about what was bought before."""
    olds, news = _rules(old, new), _rules(new, old)
    for table in olds:
        if table in news:
            was, now = olds[table], news[table]
            lines = [f"{name}: {was[name]} -> {now[name]}" for name in was if was[name] != now[name]]
            lines += [
                f"version {name}: gone, so who was moved to it has what it bought" for name in _gone(old, new, table)
            ]
            yield Affected(RULES, table, "", table, Difference([], [], lines))


def _gone(old: Catalog, new: Catalog, table: str) -> list[str]:
    """Return the versions of the plan with this table that the edit leaves out."""
    kind, _, key = table.partition(".")
    if kind != "plans":
        return []
    kept = new.version_names(new.plans[key])
    return [name for name in old.version_names(old.plans[key]) if name not in kept]


def _rules(catalog: Catalog, other: Catalog) -> dict[str, dict[str, str]]:
    """Return the rules by table and name, in words; they have the names of the other catalog's, too."""
    policy = catalog.policy
    limits = sorted({*policy.combine, *other.policy.combine, EVERY_LIMIT})
    rules: dict[str, dict[str, str]] = {
        "policy": {
            "app": catalog.leading or "none",
            "grace": duration_text(policy.grace_ns),
            **{f"overdue.{kind}": choice for kind, choice in policy.overdue.items()},
            **{name: str(getattr(policy, name)) for name in ("refund", "second_customer", "unsigned_tenant")},
            **{f"combine.{name}": "sum" if policy.is_summed(name) else "max" for name in limits},
        },
        "shadow": {"on": _word(catalog.shadow is not None)},
    }
    for key in {**catalog.meters, **other.meters}:
        rules[f"meters.{key}"] = _meter_rules(catalog.meters.get(key), other.meters.get(key))
    if catalog.apps or other.apps:
        rules["policy"]["applications"] = ", ".join(catalog.apps) or "none"
    for name, offers in (("plans", catalog.plans), ("addons", catalog.addons)):
        for key, offer in offers.items():
            rank = {"rank": str(offer.rank)} if isinstance(offer, Plan) else {}
            rules[f"{name}.{key}"] = {**rank, "purchase": _word(offer.purchase), "expires": _expiry_text(offer)}
    return rules


def _meter_rules(meter: Meter | None, other: Meter | None) -> dict[str, str]:
    """Return how a meter counts; of one that only one of the catalogs has, that it does or does not."""
    kind = {"kind": NO_METER if meter is None else meter.kind}
    if meter is None or other is None:
        return kind
    named = {
        name: str(getattr(meter, name)) or "none" for name in ("limit", "app", "reset", "overage", "at_plan_change")
    }
    return {**kind, **named, "thresholds": ", ".join(map(str, meter.thresholds)) or "none"}


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def version_block(plan: Plan, name: str, now_ns: int) -> str:
    """Return the version to add to a catalog, so that existing customers keep the present terms of a plan."""
    offered = granted(plan)
    lines = [f"[[plans.{plan.key}.versions]]", f'version = "{name}"', f"until = {instants.text(now_ns)}"]
    lines += [f"name = {_toml(plan.name)}", f"features = {_toml(list(plan.features))}"]
    lines += [f"limits = {_toml(offered['limits'])}", f"per_unit.limits = {_toml(offered['per_unit'])}"]
    lines += [f"modules = {_toml(offered['modules'])}", f"credits = {_toml(plan.credits)}"]
    return "\n".join([*lines, f'expires = "{_expiry_text(plan)}"'] if plan.purchase else lines)


def _expiry_text(offer: Offer) -> str:
    return FOR_EVER if offer.expires_ns is None else duration_text(offer.expires_ns)


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
