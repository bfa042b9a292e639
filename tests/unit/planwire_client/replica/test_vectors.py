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
from planwire_client.core.frames import AckRule, Backoff, Welcome, write
from planwire_client.errors import ReplicaClosed
from planwire_client.replica.connection import Connection
from planwire_client.replica.tokens import TokenSource

VECTORS = Path(__file__).resolve().parents[3] / "vectors"


def vectors(name: str) -> list[Any]:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / f"{name}.json").read_bytes())]


def connection(token: Any = lambda: "t") -> Connection:
    return Connection("http://127.0.0.1:1", TokenSource(token), lambda new, old: None, lambda: None)


@pytest.mark.parametrize("row", vectors("merge_patch"))
def test_a_patch_is_merged_alike_everywhere(row: dict[str, Any]) -> None:
    assert merge_patch.apply(row["target"], row["patch"]) == row["result"]


@pytest.mark.parametrize("row", vectors("frames"))
async def test_frames_leave_what_the_vectors_say(row: dict[str, Any]) -> None:
    one = connection("a token that cannot be exchanged: a refusal is then believed at once")
    state = one.add(row["topic"])
    expires_at = int(time.time()) + 600
    one.receive(write(Welcome("s", 15_000, True, expires_at, Backoff(500, 30_000), AckRule(0, 0))))
    for frame, shown in zip(row["frames"], row["shown"], strict=True):
        one.receive(json.dumps(frame))
        if shown["status"] == "denied":
            assert state.refused
            continue
        snapshot = state.snapshot
        found = (0, None) if snapshot is None else (snapshot.version, snapshot.state)
        assert found == (shown["version"], shown["state"])
        assert state.is_fresh is (shown["status"] == "fresh")


@pytest.mark.parametrize("row", vectors("reconnect"))
def test_a_close_leads_to_what_the_vectors_say(row: dict[str, Any]) -> None:
    one = connection()
    received = None if row["code"] == 1006 else Close(row["code"], "")
    ended = one._ended(ConnectionClosedError(received, None))
    if isinstance(ended, ReplicaClosed):
        assert row["decision"] == "final"
    else:
        assert row["decision"] == ("new_token" if ended.needs_token else "reconnect")
