"""Words that code and docs avoid, each with the field's word for it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTEAD = {
    "bury": "close_erased",
    "census": "tab counts",
    "clerk": "writer",
    "convoy": "coalescer",
    "deathwatch": "parent watch",
    "desk": "commands",
    "heeding": "cancel guard",
    "patience": "timeout",
    "porch": "first bytes",
    "rehearsal": "dry run",
    "shelf": "catalog watcher",
    "sightings": "provider snapshots",
    "sitting": "connection",
    "sittings": "connections",
    "tallies": "counters",
    "unknow": "invalidate",
}
"""Word -> what to write."""

KEYS = "sync/store/keys.py"
"""Key names in the store stay what they are."""


def test_no_word_that_only_this_project_knows() -> None:
    word = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)
    paths = [
        path
        for folder in ("gateway", "sync", "clients/python/planwire_client", "clients/js-snippet", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".js", ".lua", ".md"} and not {"node_modules", "vendor"} & set(path.parts)
    ]
    assert len(paths) > 200
    found = [
        f"{path.relative_to(ROOT)}: {match}: write {INSTEAD[match.lower()]!r}"
        for path in paths
        if path != ROOT / KEYS
        for match in word.findall(path.read_text("utf-8"))
    ]
    assert not found
