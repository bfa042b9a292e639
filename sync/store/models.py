"""Arguments and results of the store: changes, verdicts, snapshots. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planwire_client.core.commit import PUBLISHER, VERSION_FIELDS, Verdict as Verdict, version_of
from sync.core.errors import SyncError

FIELDS = (*VERSION_FIELDS, "state", "cause", "owner", "erased")
"""Fields of a topic's hash that are read, in this order."""

ALL_FIELDS = (*FIELDS, "private", "digest", "beside", "beside_private")
"""FIELDS, and those of the backend-only part."""

ABSENT = b"null"
"""The state of a topic that has none."""


class StoreError(SyncError):
    """The store is unreachable or failing. A commit may have happened: repeat it with the same event id."""


class StoreRejected(StoreError):
    """The store works, but not for this item: its key holds a value of another type, or too many writers came first.

    Any other StoreError may concern all items: the store is unreachable, out of memory, read-only.
    """


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit.

    Attributes:
        version: the topic's version after the call, microseconds since 1970; 0 if it has no state.
        rev: the topic's rev after the call; see `Snapshot`.
        unannounced: why the store did not announce the commit, or empty. The commit is valid; sweeps find it.
    """

    verdict: Verdict
    version: int
    rev: int = 0
    unannounced: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A topic's newest committed version as raw JSON bytes. Without state: version 0, state `null`, the rest empty.

    Attributes:
        private: the backend-only part; empty if there is none or it was not read.
        rev: rises with every commit, even without a new version; writers use it for compare-and-set.
        owner: BILLING or PUBLISHER; empty if a build from before the owner has written the topic last.
        erased: whether the topic was erased.
        restored: whether a gateway restored the state after the store had lost it; the private part is older then.
            False if the private part was not read.
        beside, beside_private: the state and the private part of who is not the owner, which readers do not see; empty
            if there are none, or if they were not read.
    """

    topic: str
    version: int
    state: bytes
    private: bytes
    cause: bytes
    rev: int = 0
    owner: str = ""
    erased: bool = False
    restored: bool = False
    beside: bytes = b""
    beside_private: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """One commit.

    Attributes:
        topic: the topic's name, already checked.
        state: the whole public state, canonical JSON.
        private: the backend-only part, canonical JSON or empty.
        event_id: dedupe key, kept for seven days; empty for none.
        order: order token; the verdict is `stale` unless it is bytewise greater than the stored token. Empty for none.
        if_version: the verdict is `conflict` unless this is the stored version (0: no state yet).
        cause: JSON object with the reason, or empty.
        previous: the snapshot that the caller has read before, as the base of a merge patch; None for no patch.
        owner: BILLING or PUBLISHER: who computes this state. The verdict for a publisher is `billed` if billing does.
        if_rev: the verdict is `conflict` unless this is the stored rev (0: no state yet).
        erases: whether this is the topic's erasure.
        beside: the state and the private part to store beside `state` and `private`, unseen by readers; None to leave
            what is there.
    """

    topic: str
    state: bytes
    private: bytes = b""
    event_id: str = ""
    order: str = ""
    if_version: int | None = None
    cause: bytes = b""
    previous: Snapshot | None = None
    owner: str = PUBLISHER
    if_rev: int | None = None
    erases: bool = False
    beside: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version of a topic's history: its public state and cause as raw JSON bytes."""

    version: int
    state: bytes
    cause: bytes


def snapshot_of(topic: str, fields: Sequence[bytes | None]) -> Snapshot:
    """Return the snapshot made from the values of a topic's FIELDS or ALL_FIELDS."""
    stored, rev, public, state, cause, owner, erased, *rest = fields
    if stored is None:
        return Snapshot(topic, 0, ABSENT, b"", b"")
    return Snapshot(
        topic,
        version_of(stored, rev, public),
        state or ABSENT,
        (rest[0] or b"") if rest else b"",
        cause or b"",
        max(int(stored), int(rev or 0)),  # builds from before `rev` raise the version alone
        (owner or b"").decode() if stored == rev else "",  # the newest commit may be of a build from before the owner
        erased is not None,
        restored=bool(rest) and rest[1] == b"",  # restore.lua sets an empty digest
        beside=(rest[2] or b"") if rest else b"",
        beside_private=(rest[3] or b"") if rest else b"",
    )
