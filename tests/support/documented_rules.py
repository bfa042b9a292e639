"""What a tenant of two applications has, after docs/catalog.md and docs/providers.md alone: a second implementation.

It reads the catalog as TOML, and knows no events: only the newest body of each subscription, and each purchase with
what has gone back. Statuses of which the docs leave a choice are None.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

CATALOG = """
[policy]
app = "desk"
combine = { seats = "sum" }

[plans.desk_free]
name = "Desk Free"
app = "desk"
rank = 0
default = true
features = ["notes"]
limits = { seats = 1 }

[plans.desk_team]
name = "Desk Team"
app = "desk"
rank = 10
features = ["notes", "boards"]
limits = { seats = 0, files = 10 }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_team"]

[plans.desk_life]
name = "Desk for life"
app = "desk"
rank = 20
purchase = true
features = ["notes", "sla"]
limits = { seats = 5, files = "unlimited" }
prices.paddle.live = ["pri_life"]

[plans.chat_pro]
name = "Chat Pro"
app = "chat"
rank = 30
features = ["calls"]
limits = { rooms = 3 }
per_unit.limits = { rooms = 2 }
modules = { chat = "write" }
prices.paddle.live = ["pri_chat"]

[plans.chat_day]
name = "Chat for two days"
app = "chat"
rank = 40
purchase = true
expires = "2d"
features = ["calls", "record"]
modules = { chat = "read", archive = "admin" }
prices.paddle.live = ["pri_day"]

[plans.all_in]
name = "All in"
rank = 25
features = ["everything"]
limits = { seats = 10, rooms = 10 }
per_unit.limits = { seats = 2 }
prices.paddle.live = ["pri_all"]

[addons.sso]
name = "SSO"
purchase = true
features = ["sso"]
limits = { files = 5 }
prices.paddle.live = ["pri_sso"]

[addons.rooms]
name = "More rooms"
app = "chat"
per_unit.limits = { rooms = 1 }
modules = { chat = "admin" }
prices.paddle.live = ["pri_rooms"]

[ignore]
prices.paddle.live = ["pri_book"]
"""

_TOML = tomllib.loads(CATALOG)
_OFFERS = {**_TOML["plans"], **_TOML["addons"]}
SOLD = {price: key for key, one in _OFFERS.items() for price in one.get("prices", {}).get("paddle", {}).get("live", ())}
"""Price -> the key of what it buys."""

PRICES = (*SOLD, "pri_book")
PURCHASED = tuple(price for price, key in SOLD.items() if _OFFERS[key].get("purchase"))
APPS = ("desk", "chat")
EXPIRES_S = 2 * 86_400
"""How long the only plan lasts that expires."""

_LEVELS = ("none", "read", "write", "admin")
_ENDED = ("paused", "canceled")


@dataclass(frozen=True)
class Thing:
    """A subscription by its newest body, or a purchase: its status `active`, or `canceled` if all of it went back.

    Attributes:
        items: (price, quantity).
        age_s: of a purchase: the seconds since its payment; None for a subscription.
    """

    status: str
    items: tuple[tuple[str, int], ...]
    age_s: float | None = None


def entitlements(things: Sequence[Thing]) -> dict[str, dict[str, Any]]:
    """What each application shows, and under "" what all of them grant together: features, limits and modules."""
    shown = {app: _of_app(things, app) for app in APPS}
    every: dict[str, Any] = {"features": set(), "limits": {}, "modules": {}}
    for one in shown.values():
        every["features"] |= one["features"]
        _raise(every["limits"], one["limits"])
        _raise(every["modules"], one["modules"])
    return {**shown, "": every}


def _of_app(things: Sequence[Thing], app: str) -> dict[str, Any]:
    bought = [(thing, _bought(thing, app)) for thing in things]
    live = [(thing, items) for thing, items in bought if thing.status not in _ENDED and items]
    plans = [key for _, items in live for key, _ in items if "rank" in _OFFERS[key]]
    default = next((key for key, one in _OFFERS.items() if one.get("default") and one["app"] == app), None)
    plan = max(plans, key=lambda key: _OFFERS[key]["rank"], default=default)
    offer = _OFFERS[plan] if plan else {}
    leading = [thing for thing, items in live if plan in dict(items)]
    limits: dict[str, Any] = {}
    units = [sum(number for key, number in _bought(thing, app) if key == plan) for thing in leading]
    for number in units or [1]:
        for name, value in _limits(offer, number).items():
            together = _sum if name == "seats" else _greater
            limits[name] = together(limits[name], value) if name in limits else value
    features, modules = set(offer.get("features", ())), dict(offer.get("modules", {}))
    for key, number in [item for _, items in live for item in items if "rank" not in _OFFERS[item[0]]]:
        features |= set(_OFFERS[key].get("features", ()))
        for name, value in _limits(_OFFERS[key], number).items():
            limits[name] = _sum(limits.get(name, 0), value)
        _raise(modules, _OFFERS[key].get("modules", {}))
    return {"plan": plan, "status": _status(things, leading, app), "features": features} | {
        "limits": limits,
        "modules": modules,
    }


def _bought(thing: Thing, app: str) -> list[tuple[str, int]]:
    """What a subscription or purchase grants in an application while it is live: (key, units)."""
    found = [(SOLD[price], number) for price, number in thing.items if price in SOLD and number]
    if thing.age_s is not None and thing.age_s >= EXPIRES_S:
        found = [(key, number) for key, number in found if "expires" not in _OFFERS[key]]
    return [(key, number) for key, number in found if _OFFERS[key].get("app", app) == app]


def _status(things: Iterable[Thing], leading: Sequence[Thing], app: str) -> str | None:
    if leading:
        return leading[0].status if len(leading) == 1 and leading[0].status != "past_due" else None
    counting = [thing.status if _bought(thing, app) else "canceled" for thing in things if _counts(thing, app)]
    if any(status not in _ENDED for status in counting):
        return None
    return next((status for status in _ENDED if status in counting), "none")


def _counts(thing: Thing, app: str) -> bool:
    """Whether it can give the application a status; with add-ons for all alone, the leading application."""
    keys = [SOLD[price] for price, number in thing.items if price in SOLD and number]
    apps = {_OFFERS[key].get("app", "") for key in keys if "rank" in _OFFERS[key] or "app" in _OFFERS[key]}
    return app in apps or "" in apps or (not apps and app == APPS[0])


def _limits(offer: dict[str, Any], units: int) -> dict[str, Any]:
    found = dict(offer.get("limits", {}))
    for name, value in offer.get("per_unit", {}).get("limits", {}).items():
        found[name] = _sum(found.get(name, 0), value * units)
    return found


def _sum(one: Any, other: Any) -> Any:
    return "unlimited" if "unlimited" in (one, other) else one + other


def _greater(one: Any, other: Any) -> Any:
    if one in _LEVELS:
        return max(one, other, key=_LEVELS.index)
    return "unlimited" if "unlimited" in (one, other) else max(one, other)


def _raise(these: dict[str, Any], others: dict[str, Any]) -> None:
    for name, value in others.items():
        these[name] = _greater(these[name], value) if name in these and value != "unlimited" else value
