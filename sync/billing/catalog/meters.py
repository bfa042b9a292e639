"""The meters of a catalog, with what they leave out, and the checks against its plans and add-ons. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sync.billing.catalog.tables import Meter, Offer
from sync.billing.catalog.values import wrong

METERS_MAX = 32
"""Maximum number of meters: a tenant's usage is one small document."""


def meters_of(tables: Mapping[str, Meter], offers: Sequence[Offer]) -> dict[str, Meter]:
    """Return the meters by key, complete.

    Args:
        tables: the document's tables.
        offers: its plans and add-ons.

    Raises:
        PydanticCustomError: a meter counts what nothing sells, or an offer gives credits of what is no such meter.
    """
    if len(tables) > METERS_MAX:
        raise wrong(f"are {len(tables)}: a catalog has at most {METERS_MAX}", "meters")
    found = {key: _complete(key, meter) for key, meter in tables.items()}
    for offer in offers:
        for key in offer.credits:
            if key not in found or found[key].kind != "credits":
                path = ("addons" if not hasattr(offer, "rank") else "plans", offer.key, "credits", key)
                raise wrong(f'is no meter of credits: add [meters.{key}] with kind = "credits"', *path)
    for key, meter in found.items():
        _check(key, meter, offers)
    return found


def _complete(key: str, meter: Meter) -> Meter:
    given = meter.model_fields_set
    reset = meter.reset if "reset" in given or meter.kind == "allocated" else "period"
    return meter.model_copy(update={"key": key, "limit": meter.limit or key, "reset": reset})


def _check(key: str, meter: Meter, offers: Sequence[Offer]) -> None:
    if meter.kind == "allocated" and meter.reset != "never":
        raise wrong('must be "never": what is allocated stays until it is released', "meters", key, "reset")
    if meter.kind == "credits" and meter.limit != key:
        raise wrong(f"must be left out: credits are counted as limits.{key}", "meters", key, "limit")
    own = [offer for offer in offers if meter.app in ("", offer.app) or not offer.app]
    if meter.app and not any(offer.app == meter.app for offer in offers):
        raise wrong("is an application that no plan and no add-on names", "meters", key, "app")
    sold = {name for offer in own for name in (*offer.limits, *offer.per_unit.limits)}
    if meter.limit not in sold and not any(key in offer.credits for offer in own):
        step = ("limit",) if "limit" in meter.model_fields_set else ()
        raise wrong(f"counts {meter.limit!r}, which no plan and no add-on limits", "meters", key, *step)
