"""A commit as values: the script that makes it, its keys and arguments, its verdicts. Pure.

commit.lua is the one writer of versions. Servers and clients run the file that they bring, by the SHA-1 of its text:
the scripts of two versions run side by side. What they write has a `FORMAT`; docs/adr/0003-commit-script.md says why.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from importlib import resources

import orjson

from planwire_client.core import merge_patch
from planwire_client.core.names import Names

LUA = resources.files(__package__).joinpath("commit.lua").read_text("utf-8")
"""The script's source; its header lists keys, arguments and the reply."""

SHA = hashlib.sha1(LUA.encode(), usedforsecurity=False).hexdigest()
"""What EVALSHA names it by."""

FORMAT = 2
"""The format of the store's data. 1: builds before the marker. 2: `rev`, `owner` and `erased` in snapshots."""

BILLING = "billing"
PUBLISHER = "publisher"
"""Who computes a topic's state: the billing wing from a provider's events, or whoever publishes it."""


class Verdict(StrEnum):
    """What became of a change.

    A publisher never sees `billed`: its publish is rejected with the code `topic_is_billed`.
    """

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    STALE = "stale"
    CONFLICT = "conflict"
    BILLED = "billed"


def order_token(order: int | str) -> str:
    """Return the bytewise comparable token of an order value: integers zero-padded to 20 digits."""
    return f"{order:020d}" if isinstance(order, int) else order


def patch_argument(base: int, old: bytes, new: bytes) -> bytes:
    """Return the script's patch argument, `BASE PATCH`; empty where no merge patch exists or none is smaller.

    Args:
        base: the version that `old` is, 0 for none.
        old: the state that the topic is thought to have, JSON. A base that is not stored by then is dropped.
        new: the state to commit, canonical JSON.
    """
    patch = merge_patch.diff(orjson.loads(old), orjson.loads(new)) if base else None
    if patch is None:
        return b""
    encoded = orjson.dumps(patch, option=orjson.OPT_SORT_KEYS)
    return b"%d %b" % (base, encoded) if len(encoded) < len(new) else b""


def keys_of(names: Names, topic: str) -> list[str]:
    """Return the script's keys."""
    return [names.snap(topic), names.log(topic), names.seen(topic)]


STATE_AT, PATCH_AT = 2, 8
"""Where state and patch stand among the arguments."""


def arguments_of(
    names: Names,
    topic: str,
    state: bytes,
    private: bytes = b"",
    *,
    is_sharded: bool = False,
    event_id: str = "",
    order: str = "",
    if_version: int | None = None,
    cause: bytes = b"",
    patch: bytes = b"",
    owner: str = PUBLISHER,
    erases: bool = False,
    if_rev: int | None = None,
) -> list[bytes | str]:
    """Return the script's arguments, in its order.

    Args:
        names: the installation's.
        topic: the topic's name, already checked.
        state: the whole public state, canonical JSON.
        private: the backend-only part, canonical JSON or empty.
        is_sharded: whether the store is a Cluster, which announces by SPUBLISH.
        event_id: dedupe key, remembered for seven days; empty for none.
        order: an `order_token`; empty for none.
        if_version: the version that must be stored (0: no state yet); None for any.
        cause: JSON object telling why, or empty.
        patch: a `patch_argument`.
        owner: BILLING or PUBLISHER.
        erases: whether this is the topic's erasure.
        if_rev: the rev that must be stored (0: no state yet); None for any.
    """
    return [
        "SPUBLISH" if is_sharded else "PUBLISH",
        names.channel(topic),
        state,
        private,
        event_id,
        order,
        "" if if_version is None else str(if_version),
        cause,
        patch,
        owner,
        "1" if erases else "",
        "" if if_rev is None else str(if_rev),
    ]
