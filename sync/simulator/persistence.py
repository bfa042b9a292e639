"""Keeps the world and the deliveries still owed in one JSON file, so that a restart continues where it stopped.

The file is written as a whole and replaced atomically.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from sync.core.errors import SyncError
from sync.simulator.world.model import Adjustment, Event, Purchase, Subscription, World

FORMAT = 1
"""The file's format version; a file of another version is rejected."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A delivery that is not accepted yet: its event, its notification id, and its attempts so far."""

    event_id: str
    notification_id: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The file's content; each kind in order of creation. Older files have no `purchases` and no `adjustments`."""

    format: int
    stamp_us: int
    subscriptions: tuple[Subscription, ...]
    events: tuple[Event, ...]
    owed: tuple[Owed, ...]
    purchases: tuple[Purchase, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()


_KEPT = TypeAdapter(Kept)


class UnusableFileError(SyncError):
    """The file exists and cannot be used. It is never overwritten."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot use {path}: {reason}; move it away to start with an empty provider")


def load(path: Path) -> tuple[World, tuple[Owed, ...]]:
    """Return the world and the deliveries owed; an empty world if there is no file.

    Raises:
        UnusableFileError: the file cannot be read, or was not written by `save`.
    """
    try:
        kept = _KEPT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return World(), ()
    except OSError as error:
        raise UnusableFileError(path, error.strerror or "cannot be read") from error
    except ValidationError as error:
        raise UnusableFileError(path, f"not a simulator file ({error.error_count()} errors)") from error
    if kept.format != FORMAT:
        raise UnusableFileError(path, f"its format is {kept.format}, this simulator writes {FORMAT}")
    world = World(
        {subscription.id: subscription for subscription in kept.subscriptions},
        kept.events,
        kept.stamp_us,
        {purchase.payment.id: purchase for purchase in kept.purchases},
        {adjustment.id: adjustment for adjustment in kept.adjustments},
    )
    return world, kept.owed


def save(path: Path, world: World, owed: Iterable[Owed]) -> None:
    """Write the file: write a new one beside it, flush it to the disk, then move it into place.

    Raises:
        OSError: writing failed; the file is unchanged.
    """
    kept = Kept(
        FORMAT,
        world.stamp_us,
        tuple(world.subscriptions.values()),
        world.events,
        tuple(owed),
        tuple(world.purchases.values()),
        tuple(world.adjustments.values()),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(orjson.dumps(kept))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
