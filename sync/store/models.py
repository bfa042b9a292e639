"""What the store takes and returns: changes, verdicts, snapshots. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planwire_client.core.commit import PUBLISHER, Verdict as Verdict
from sync.core import announcement
from sync.core.errors import SyncError

FIELDS = ("version", "state", "cause", "rev", "owner", "erased")
"""Fields that are read of a topic's hash, in this order."""

ALL_FIELDS = (*FIELDS, "private", "digest")
"""The same with the backend-only part."""

ABSENT = b"null"
"""The state of a topic that has none."""


class StoreError(SyncError):
    """The store is unreachable or failing. A commit may have happened: repeat it with the same event id."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a commit.

    Attributes:
        version: the topic's after the call, microseconds since 1970; 0 where it has no state.
        rev: the topic's after the call; see `Snapshot`.
        unannounced: why the store did not announce the commit, or empty. The commit stands, and sweeps find it.
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
        rev: rises with every commit, also one that makes no version; writers compare-and-set on it.
        owner: BILLING or PUBLISHER; empty if only a build from before the owner has written it.
        erased: whether the topic was erased.
        restored: whether a gateway gave the state back to a store that had lost it, so that the private part is older;
            False where the private part was not asked for.
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


@dataclass(frozen=True, slots=True)
class Change:
    """One commit.

    Attributes:
        topic: the topic's name, already checked.
        state: the whole public state, canonical JSON.
        private: the backend-only part, canonical JSON or empty.
        event_id: dedupe key, remembered for seven days; empty for none.
        order: `stale` unless bytewise greater than the stored token; empty for none.
        if_version: `conflict` unless this is the stored version (0: no state yet).
        cause: JSON object telling why, or empty.
        previous: the snapshot the caller read before, from which a merge patch is made; None for no patch.
        owner: BILLING or PUBLISHER: which of them computes this state. A publisher's is `billed` once billing does.
        if_rev: `conflict` unless this is the stored rev (0: no state yet).
        erases: whether this is the topic's erasure.
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


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version of a topic's history: its public state and cause as raw JSON bytes."""

    version: int
    state: bytes
    cause: bytes


def snapshot_of(topic: str, fields: Sequence[bytes | None]) -> Snapshot:
    """Return the snapshot in the values of a topic's FIELDS, or ALL_FIELDS."""
    stored, state, cause, rev, owner, erased, *rest = fields
    if stored is None:
        return Snapshot(topic, 0, ABSENT, b"", b"")
    version, state, cause = int(stored), state or ABSENT, cause or b""
    # A build from before `rev` leaves it, and what belongs to it, behind the version.
    is_older = rev is None or int(rev) < version
    return Snapshot(
        topic,
        version,
        state,
        (rest[0] or b"") if rest else b"",
        cause,
        version if is_older else int(rev or 0),
        (owner or b"").decode(),
        announcement.was_erased_before(state, cause) if is_older else erased is not None,
        restored=bool(rest) and rest[1] == b"",  # restore.lua leaves no digest
    )
