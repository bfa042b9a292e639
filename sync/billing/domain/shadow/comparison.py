"""Compares what billing computes with what another entitlement system answers, field by field. Pure.

The fields are those that the catalog's `[shadow]` declares. What the other system does not have is not compared: a
path that its answer lacks, or null. A table (`features`, `limits`, `modules`) is compared name by name: of an object
the names that it has; of a list of features, which says that the others are not granted, the names of both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from sync.billing.catalog.catalog import Catalog, Shadow
from sync.billing.domain.shadow.values import NO_LEVEL, Reading, UnreadError, reading
from sync.core import instants

FIELDS_MAX = 200
"""Maximum fields of a comparison; what is beyond is not compared."""

VALUE_MAX_BYTES = 4_096
"""Maximum size of one value that is kept of an answer, as JSON."""

TABLES = ("features", "limits", "modules")
_ABSENT: Mapping[str, object] = {"features": False, "limits": 0, "modules": NO_LEVEL}
"""What a name that our state lacks means."""

Extract = dict[str, Any]
"""What is kept of an answer: our field -> their value, as it was answered."""


class Difference(NamedTuple):
    """A field that differs: our value and theirs, in our words; theirs as it is if it cannot be read."""

    field: str
    here: object
    there: object


class Comparison(NamedTuple):
    """The compared fields, and the differences among them, in the order of the fields."""

    compared: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()


def extract(answer: Mapping[str, Any], shadow: Shadow) -> Extract:
    """Return what is compared of an answer. Larger values than VALUE_MAX_BYTES, and null, are left out."""
    found: Extract = {}
    for field, path in shadow.fields.items():
        value = _at(answer, path)
        if value is not None and len(orjson.dumps(value)) <= VALUE_MAX_BYTES:
            found[field] = value
    return found


def compare(state: Mapping[str, Any], answer: Extract, shadow: Shadow, catalog: Catalog) -> Comparison:
    """Return how a state of billing differs from the other system's answer.

    Args:
        state: what billing computes.
        answer: of `extract`.
        shadow: the declared fields, values and exceptions.
        catalog: for the names of plans.
    """
    compared: list[str] = []
    differences: list[Difference] = []
    for field, here, there, how in _pairs(state, answer, shadow, catalog):
        if field in shadow.ignore or len(compared) >= FIELDS_MAX:
            continue
        compared.append(field)
        try:
            their = how.read(there)
        except UnreadError:
            differences.append(Difference(field, _shown(here, how), _short(there)))
            continue
        if their != here or type(their) is not type(here):
            differences.append(Difference(field, _shown(here, how), _shown(their, how)))
    return Comparison(tuple(compared), tuple(differences))


def _pairs(
    state: Mapping[str, Any], answer: Extract, shadow: Shadow, catalog: Catalog
) -> Iterator[tuple[str, object, object, Reading]]:
    """Yield (field, our value, their value, how theirs is read)."""
    for field, there in answer.items():
        how = reading(field, shadow, catalog)
        here = _at(state, field)
        if field.rpartition(".")[2] not in TABLES:
            yield field, _ours(here, how), there, how
            continue
        mine = here if isinstance(here, Mapping) else {}
        named = _named(there, how, mine)
        if named is None:  # no table: shown as a difference
            yield field, mine, there, how
            continue
        for name, value in sorted(named.items()):
            whole = f"{field}.{name}"
            yield whole, _ours(mine.get(name), how), value, reading(whole, shadow, catalog)


def _named(there: object, how: Reading, mine: Mapping[str, Any]) -> dict[str, object] | None:
    """Return the names of a table of theirs, in our words, with their values; None if it is no table."""
    if isinstance(there, Mapping):
        return {_name(name, how): value for name, value in there.items() if value is not None}
    if isinstance(there, str) and how.kind == "features":
        there = [name.strip() for name in there.split(",") if name.strip()]
    if isinstance(there, list) and how.kind == "features":
        granted = {_name(name, how) for name in map(_key, there)}
        return {name: name in granted for name in {*granted, *mine}}
    return None


def _name(name: object, how: Reading) -> str:
    translated = how.words.get(str(name), name)
    return translated if isinstance(translated, str) else str(name)


def _key(entry: object) -> object:
    """Return the name in an entry of a list: itself, or the key of an object."""
    if isinstance(entry, Mapping):
        return next((entry[name] for name in ("key", "id", "name") if name in entry), entry)
    return entry


def _ours(value: Any, how: Reading) -> object:
    if how.kind == "plan":
        return value.get("key") if isinstance(value, Mapping) else value
    if value is None:
        return _ABSENT.get(how.kind)
    if how.kind == "dates":
        return instants.parse(value) // 1_000_000_000
    return value


def _shown(value: object, how: Reading) -> object:
    if how.kind == "dates" and isinstance(value, int):
        return instants.text(value * 1_000_000_000)
    return _short(value)


def _short(value: object) -> object:
    encoded = orjson.dumps(value)
    return value if len(encoded) <= 200 else f"{encoded[:200].decode(errors='replace')}…"


def _at(value: object, path: str) -> Any:
    """Return the value at a path of names, and of positions in lists; None if there is none.

    A name that has dots itself is found, too.
    """
    if isinstance(value, Mapping) and path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    if isinstance(value, Mapping):
        inner = value.get(head)
    elif isinstance(value, list) and head.isdigit() and int(head) < len(value):
        inner = value[int(head)]
    else:
        return None
    return _at(inner, rest) if dot else inner
