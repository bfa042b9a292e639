"""A commit as values: the script that makes it, its names in the store, its arguments and verdicts. Pure.

commit.lua is the one writer of versions. Servers and clients run the file that they bring, by the SHA-1 of its text:
the scripts of two versions run side by side. What they write has a `FORMAT`; docs/adr/0003-commit-script.md says why.

Every key and channel begins with the installation's prefix, so that several can share a server. A channel also names
the database: pub/sub ignores databases. The braces are literal: they are the hash tag that keeps a topic in one slot of
a Cluster.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

import orjson

from planwire_client.core import merge_patch

LUA = resources.files(__package__).joinpath("commit.lua").read_text("utf-8")
"""The script's source; its header lists keys, arguments and the reply."""

SHA = hashlib.sha1(LUA.encode(), usedforsecurity=False).hexdigest()
"""What EVALSHA names it by."""

FORMAT = 2
"""The format of the store's data. 1: builds before the marker. 2: `rev`, `owner` and `erased` in snapshots."""

BILLING = "billing"
PUBLISHER = "publisher"
"""Who computes a topic's state: the billing wing from a provider's events, or whoever publishes it."""


BILLED = "billing computes this topic: publish under another name, or grant what it should have beside the plan"
"""Why a publish of a topic that billing computes is rejected."""


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


DEFAULT_PREFIX = "pw"

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")

WRONG_SERVER_CODES = frozenset(
    ("READONLY", "MASTERDOWN", "LOADING", "UNBLOCKED", "NOREPLICAS", "NOAUTH", "REDIRECT", "FAILOVER")
)
"""Error codes of a server that does not serve a primary's commands now. The command has not run.

A managed store fails over behind one DNS name, and connections made before stay at the old primary. On such a reply a
client drops its connections, so that the next attempt looks the name up again.

READONLY, MASTERDOWN: a replica. LOADING: it loads its data, as a demoted primary does that fetches the new one's.
UNBLOCKED: it was demoted while a command waited. NOREPLICAS: it is cut off from its replicas; one may have taken over.
NOAUTH: it has no login, as behind a proxy that has moved to another server.
"""


class PrefixError(ValueError):
    """The text cannot be a prefix; `str()` says what one is."""


def check_prefix(text: str) -> str:
    """Return `text` when it can be the prefix of keys and channels.

    Raises:
        PrefixError: it cannot.
    """
    if not _PREFIX.fullmatch(text):
        raise PrefixError(
            f"{text[:80]!r} is not a prefix: it has 1 to 64 of the characters A-Z a-z 0-9 . _ : / -"
            " and begins with a letter or digit (no braces, no blanks)"
        )
    return text


@dataclass(frozen=True, slots=True)
class Names:
    """The names that everybody needs who commits to one installation.

    Attributes:
        prefix: what every key and channel begins with (`PLANWIRE_PREFIX`).
        database: the number of the database, 0 on a Cluster. Number 0 leaves no trace in a channel's name.
    """

    prefix: str = DEFAULT_PREFIX
    database: int = 0

    @property
    def scope(self) -> str:
        """What every channel begins with: the prefix, and any database but the first."""
        # "@" cannot be part of a prefix, so no other prefix has these channels.
        return f"{self.prefix}@{self.database}" if self.database else self.prefix

    def channel(self, topic: str) -> str:
        """Return the channel on which the topic's commits are announced."""
        return f"{self.scope}:{{{topic}}}"

    def head(self, tag: str) -> str:
        """Return the common head of the keys with this hash tag; each key is HEAD:NAME."""
        return f"{self.prefix}:{{{tag}}}"

    @property
    def schema(self) -> str:
        """Hash of the format of the installation's data; see `sync.store.checks.inspection`. Two fields."""
        return f"{self.head('schema')}:format"

    def snap(self, topic: str) -> str:
        """Return the key of the hash version, rev, owner, state, private, digest, order, cause, erased."""
        return f"{self.head(topic)}:snap"

    def log(self, topic: str) -> str:
        """Return the key of the capped stream of committed versions."""
        return f"{self.head(topic)}:log"

    def seen(self, topic: str) -> str:
        """Return the key of the sorted set of event ids committed within the last seven days."""
        return f"{self.head(topic)}:seen"


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


STATE_AT, PATCH_AT = 2, 8
"""Where state and patch stand among the arguments."""


def keys_and_arguments(
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
) -> tuple[list[str], list[bytes | str]]:
    """Return the script's keys and arguments, in its order.

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
    return [names.snap(topic), names.log(topic), names.seen(topic)], [
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


def wrong_server_code(error: object) -> str:
    """Return the code by which a server says that it is not the one to ask; "" for every other error or reply."""
    if not isinstance(error, BaseException):
        return ""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if code in WRONG_SERVER_CODES:
        return str(code)
    # Redis before 7 wraps what a script's command was answered: "Error running script (...): -READONLY You can't ...".
    return "READONLY" if ": -READONLY " in str(error) else ""
