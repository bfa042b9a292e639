"""The locks: which there are, what each is made from, and how one is read.

A Python lock is a requirements file with a version and the SHA-256 of every file of it that may be installed, for all
platforms at once. `make lock` writes it (update.py), pip reads it. No lock names a host: the index is the reader's own.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)(?: ; (?P<marker>[^\\]+?))? \\")
_HASH = re.compile(r"    --hash=sha256:(?P<hex>[0-9a-f]{64})(?P<more> \\)?")


@dataclasses.dataclass(frozen=True)
class Lock:
    """A Python lock: its path, and what it is made from.

    `extras` are those of pyproject.toml, where `source` is that; `like` is the lock whose versions this one shares.
    """

    path: str
    source: str = "pyproject.toml"
    extras: tuple[str, ...] = ()
    like: str | None = None
    wheels_stated: bool = False
    """The file itself forbids building from source, for readers who type no options."""


DEV = "locks/dev.txt"

PYTHON_LOCKS = (
    Lock(DEV, extras=("dev",)),
    Lock("locks/production.txt", extras=("paddle", "outbox"), like=DEV),
    Lock("locks/build.txt", source="locks/build.in", like=DEV),
    Lock("requirements.txt", extras=("embedded", "paddle"), like=DEV, wheels_stated=True),
    Lock("locks/schemathesis.txt", source="locks/schemathesis.in"),
    Lock("locks/tools.txt", source="locks/tools.in"),
    Lock("locks/benchmarks.txt", source="locks/benchmarks.in"),
)

NPM_FOLDERS = ("benchmarks/baselines", "clients/js-snippet", "tests/interop", "tests/specs")
"""The folders with a package-lock.json."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One distribution in a lock; `marker` says on which platforms, None: on all."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]

    def is_for_this_python(self) -> bool:
        """Whether the running interpreter is one that the entry is for."""
        return self.marker is None or self.marker.evaluate()


def read(path: Path) -> dict[str, Entry]:
    """Return the entries of a Python lock by canonical name.

    Raises:
        ValueError: A line is none of: an entry, a hash, a comment, `--only-binary :all:`; or an entry has no hash or
            comes twice.
    """
    entries: dict[str, Entry] = {}
    head: re.Match[str] | None = None
    hashes: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if head is not None:
            found = _HASH.fullmatch(line)
            if found is None:
                raise ValueError(f"{path.name}, line {number}: not a SHA-256 hash: {line}")
            hashes.append(found["hex"])
            if not found["more"]:
                name = canonicalize_name(head["name"])
                if name in entries:
                    raise ValueError(f"{path.name}, line {number}: {name} is there twice")
                marker = Marker(head["marker"]) if head["marker"] else None
                entries[name] = Entry(name, head["version"], marker, tuple(hashes))
                head = None
        elif line and line != "--only-binary :all:" and not re.match(r" *#", line):
            head, hashes = _ENTRY.fullmatch(line), []
            if head is None:
                raise ValueError(f"{path.name}, line {number}: not name==version with hashes: {line}")
    if head is not None:
        raise ValueError(f"{path.name} ends within an entry")
    return entries
