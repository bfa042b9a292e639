"""The vectors that the browser client runs too: what both must make of patches, frames and closes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from planwire_client.core import merge_patch
from planwire_client.link import Link
from planwire_client.tokens import TokenSource

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def vectors(name: str) -> list[Any]:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / f"{name}.json").read_bytes())]


def link(token: Any = lambda: "t") -> Link:
    return Link("http://127.0.0.1:1", TokenSource(token), lambda new, old: None, lambda: None)


@pytest.mark.parametrize("row", vectors("merge_patch"))
def test_a_patch_is_merged_alike_everywhere(row: dict[str, Any]) -> None:
    assert merge_patch.apply(row["target"], row["patch"]) == row["result"]


@pytest.mark.parametrize("row", vectors("frames"))
async def test_frames_leave_what_the_vectors_say(row: dict[str, Any]) -> None:
    sitting = link("a token that cannot be exchanged: a refusal is then believed at once")
    held = sitting.add(row["topic"])
    sitting._take(
        {
            "type": "welcome",
            "heartbeat_ms": 15_000,
            "fresh": True,
            "token_expires_at": time.time() + 600,
            "reconnect": {"min_ms": 500, "max_ms": 30_000},
            "ack": {"share": 0, "after_ms": 0},
        }
    )
    for frame, shown in zip(row["frames"], row["shown"], strict=True):
        sitting._take(frame)
        if shown["status"] == "denied":
            assert held.refused
            continue
        snapshot = held.snapshot
        found = (0, None) if snapshot is None else (snapshot.version, snapshot.state)
        assert found == (shown["version"], shown["state"])
        assert held.is_fresh is (shown["status"] == "fresh")


@pytest.mark.parametrize("row", vectors("reconnect"))
def test_a_close_leads_to_what_the_vectors_say(row: dict[str, Any]) -> None:
    sitting = link()
    received = None if row["code"] == 1006 else Close(row["code"], "")
    over = sitting._ended(ConnectionClosedError(received, None))
    decision = "final" if over is None else "new_token" if over.is_token else "reconnect"
    assert decision == row["decision"]
    assert (sitting.closed is not None) is (decision == "final")
