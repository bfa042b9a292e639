"""The values of another entitlement system, in our words: plans, statuses, features, limits, levels, instants. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sync.billing.catalog.catalog import LEVELS, NUMBER_MAX, UNLIMITED, Catalog, Shadow

_YES = frozenset({"true", "yes", "on", "enabled", "active", "granted", "1"})
_NO = frozenset({"false", "no", "off", "disabled", "inactive", "none", "0", ""})
_UNLIMITED = frozenset({UNLIMITED, "infinite", "infinity", "inf", "-1"})
_STATUSES = {"cancelled": "canceled", "trial": "trialing", "on_trial": "trialing", "in_trial": "trialing"}
_LEVELS = {"view": "read", "readonly": "read", "read_only": "read", "edit": "write", "readwrite": "write"}
_WHOLE_NUMBER = re.compile(r"-?\d{1,16}(\.0+)?")
_SECONDS_MAX = 9_000_000_000
"""The year 2255. A number above is of milliseconds, and a thousand times above of microseconds."""

NO_LEVEL = "none"
"""A module that is not granted."""


class UnreadError(ValueError):
    """A value of the other system is none of its field; `str()` shows it."""


class Reading(NamedTuple):
    """How the values of one field are read.

    Attributes:
        kind: one of KINDS.
        words: their word -> ours.
        catalog: for the names of plans.
    """

    kind: str
    words: Mapping[str, Any]
    catalog: Catalog

    def read(self, value: object) -> object:
        """Return a value of the other system in our words.

        Raises:
            UnreadError: it is none of this field.
        """
        value = _translated(value, self.words)
        match self.kind:
            case "plan":
                return _plan(value, self.catalog)
            case "status":
                return _status(value)
            case "features":
                return _feature(value)
            case "limits":
                return _limit(value)
            case "modules":
                return _level(value)
            case _:
                return _instant(value)


KINDS = ("plan", "status", "features", "limits", "modules", "dates")


def kind_of(field: str) -> str:
    """Return what a field of ours is about: one of KINDS."""
    own = _own(field)[0]
    return own if own in KINDS else "dates"


def _own(field: str) -> list[str]:
    """Return the steps of a field, without those that name an application."""
    steps = field.split(".")
    return steps[2:] if steps[0] == "apps" else steps


def reading(field: str, shadow: Shadow, catalog: Catalog) -> Reading:
    """Return how a field of ours is read. The words of `features.sso` come before those of `features`."""
    own, kind = _own(field), kind_of(field)
    words = {**shadow.values.get(kind, {}), **shadow.values.get(".".join(own), {}), **shadow.values.get(field, {})}
    return Reading(kind, words, catalog)


def _translated(value: object, words: Mapping[str, Any]) -> object:
    if not words or isinstance(value, dict | list):
        return value
    text = _text(value)
    if text in words:
        return words[text]
    folded = {word.casefold(): ours for word, ours in words.items()}
    return folded.get(text.casefold(), value)


def _text(value: object) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    return str(value).strip()


def _word(value: object) -> str:
    return re.sub(r"[\s-]+", "_", _text(value)).casefold()


def _plan(value: object, catalog: Catalog) -> object:
    if isinstance(value, dict):
        value = next((value[name] for name in ("key", "id", "name") if isinstance(value.get(name), str)), value)
    if not isinstance(value, str):
        raise UnreadError(f"{value!r:.60} is no plan")
    text = value.strip()
    if text in catalog.plans:
        return text
    for key, plan in catalog.plans.items():
        if text.casefold() in (key.casefold(), plan.name.casefold()):
            return key
    return text  # a plan that the catalog does not have: shown as it is


def _status(value: object) -> object:
    if not isinstance(value, str):
        raise UnreadError(f"{value!r:.60} is no status")
    word = _word(value)
    return _STATUSES.get(word, word)


def _feature(value: object) -> object:
    if isinstance(value, dict):
        value = next((value[name] for name in ("enabled", "value", "access") if name in value), value)
    word = _text(value).casefold() if isinstance(value, str | int | bool) else None
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise UnreadError(f"{value!r:.60} is neither yes nor no")


def _limit(value: object) -> object:
    if isinstance(value, dict):
        value = next((value[name] for name in ("limit", "value", "max") if name in value), value)
    if not isinstance(value, bool) and isinstance(value, str | int | float):
        text = _text(value).casefold()
        if text in _UNLIMITED:
            return UNLIMITED
        if _WHOLE_NUMBER.fullmatch(text) and 0 <= (number := int(text.partition(".")[0])) <= NUMBER_MAX:
            return number
    raise UnreadError(f"{value!r:.60} is no whole number")


def _level(value: object) -> object:
    if isinstance(value, str):
        word = _word(value)
        word = _LEVELS.get(word, word)
        if word in LEVELS:
            return word
    if value is False or (isinstance(value, str) and value.strip().casefold() in _NO):
        return NO_LEVEL
    raise UnreadError(f"{value!r:.60} is none of {', '.join(LEVELS)}")


def _instant(value: object) -> object:
    """Return an instant as whole seconds since 1970."""
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds < _SECONDS_MAX:
        raise UnreadError(f"{value!r:.60} is no instant")
    return int(seconds)


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and not _WHOLE_NUMBER.fullmatch(value.strip()):
        try:
            found = datetime.fromisoformat(value.strip())
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    number = float(value)
    return next((number / unit for unit in (1, 1_000, 1_000_000) if abs(number) < _SECONDS_MAX * unit), None)
