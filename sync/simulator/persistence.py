"""Keeps the world in one JSON file, written whole and atomically, so that a restart goes on where it stopped.

Knows nothing of the rules. The deliveries still owed are kept with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from sync.core.errors import SyncError
from sync.simulator.world.model import Event, Subscription, World

FORMAT = 1
"""The file's version; another one is refused, not guessed at."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A delivery not yet accepted: the event, the id it is delivered under, how often it was tried."""

    event_id: str
    notification_id: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file holds. `subscriptions` in the order they were made."""

    format: int
    stamp_us: int
    subscriptions: tuple[Subscription, ...]
    events: tuple[Event, ...]
    owed: tuple[Owed, ...]


_KEPT = TypeAdapter(Kept)


class UnusableFileError(SyncError):
    """The file exists and cannot be used. It is never overwritten."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot use {path}: {reason}; move it away to start with an empty provider")


def load(path: Path) -> tuple[World, tuple[Owed, ...]]:
    """The world and the deliveries owed; an empty world where there is no file.

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
    subscriptions = {subscription.id: subscription for subscription in kept.subscriptions}
    return World(subscriptions, kept.events, kept.stamp_us), kept.owed


def save(path: Path, world: World, owed: Iterable[Owed]) -> None:
    """Return once the file holds the world: written beside it, flushed to the disk, then moved into place.

    Raises:
        OSError: the disk refused; the file is as it was.
    """
    kept = Kept(FORMAT, world.stamp_us, tuple(world.subscriptions.values()), world.events, tuple(owed))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(orjson.dumps(kept))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
