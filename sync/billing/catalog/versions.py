"""The versions of a plan: earlier terms, which those keep who have bought them (grandfathering). Pure.

The plan itself is the newest version, for new customers. Rank, default and the plan's key are those of the plan in all
versions, since they decide between plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sync.billing.catalog import positions
from sync.billing.catalog.tables import SOLD_BY, Plan, PlanVersion
from sync.billing.catalog.values import Ids, wrong

TERMS = ("name", "features", "limits", "per_unit", "modules", "credits")
"""The fields in which versions of a plan differ."""


@dataclass(frozen=True, slots=True)
class PlanVersions:
    """A plan with versions.

    Attributes:
        by_name: each version as a plan of its own; the present one first, the others as they are listed.
        dated: the versions with an end, by the end of their sale, ascending.
    """

    by_name: Mapping[str, Plan]
    dated: tuple[tuple[int, Plan], ...]

    def bought(self, offer: Plan, at_ns: int) -> Plan:
        """Return the version that was bought at an instant, by what the catalog lists for the item: `offer`.

        A price of a version buys that version. A price of the plan buys the version that ended first after the instant.
        """
        if offer.version != next(iter(self.by_name)):
            return offer
        return next((plan for until_ns, plan in self.dated if at_ns < until_ns), offer)

    def place(self, plan: Plan) -> int:
        """Return the version's place: of two in one subscription, the one listed first counts, the present one last."""
        return list(self.by_name).index(plan.version) or len(self.by_name)


def versions_of(plans: Mapping[str, Plan]) -> dict[str, PlanVersions]:
    """Return the plans that have versions, by key.

    Raises:
        PydanticCustomError: a version cannot be told from another, or nobody can have bought it.
    """
    found = {}
    for key, plan in plans.items():
        if plan.versions:
            by_name, dated = {plan.version: plan}, dict[int, Plan]()
            for number, version in enumerate(plan.versions):
                path = ("plans", key, "versions", positions.index(number))
                _check(version, by_name, dated, path)
                terms = {name: value for name in TERMS if (value := getattr(version, name)) is not None}
                terms |= _expiry(version, plan, path)
                sold = {table: getattr(version, table) for table in SOLD_BY}
                made = plan.model_copy(update={**terms, **sold, "version": version.version, "versions": []})
                by_name[version.version] = made
                if version.until_ns is not None:
                    dated[version.until_ns] = made
            found[key] = PlanVersions(by_name, tuple([(until_ns, dated[until_ns]) for until_ns in sorted(dated)]))
    return found


def sections(found: Mapping[str, PlanVersions]) -> Iterator[tuple[positions.Path, Plan]]:
    """Yield the path in the document and the plan of each version but the present ones."""
    for key, versions in found.items():
        for number, plan in enumerate(list(versions.by_name.values())[1:]):
            yield ("plans", key, "versions", positions.index(number)), plan


def _expiry(version: PlanVersion, plan: Plan, path: positions.Path) -> dict[str, int | None]:
    if version.expires_ns is None:
        return {}
    if not plan.purchase:
        raise wrong(f"is for what a purchase buys: add purchase = true to plans.{plan.key}", *path, "expires")
    return {"expires_ns": version.expires_ns or None}


def _check(version: PlanVersion, by_name: Mapping[str, Plan], dated: Mapping[int, Plan], path: positions.Path) -> None:
    if version.version in by_name:
        raise wrong(f"is {version.version!r}, the name of another version of the plan", *path, "version")
    if version.until_ns is None and not any(_has_ids(getattr(version, table)) for table in SOLD_BY):
        raise wrong("needs until (who bought the plan before keeps these terms) or prices of its own", *path)
    if version.until_ns is not None and version.until_ns in dated:
        other = dated[version.until_ns].version
        raise wrong(f"is the until of version {other!r} too: two versions cannot end at one instant", *path, "until")


def _has_ids(listed: Ids) -> bool:
    return any(ids for environments in listed.values() for ids in environments.values())
