"""The commit script, and its keys, channels, arguments and verdicts as values. Pure.

commit.lua is the only writer of versions. Servers and clients run their own copy by the SHA-1 of its text, so two
versions of the script can run side by side. Their data has a `FORMAT`; see docs/adr/0003-commit-script.md.

Every key and channel begins with the installation's prefix, so that several installations can share a server. A channel
also names the database, because pub/sub ignores databases. The braces are literal: they are the hash tag that keeps a
topic in one slot of a Cluster.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

import orjson

from planwire_client.core import merge_patch
from planwire_client.core.topic import USAGE_KIND, tenant_of

LUA = resources.files(__package__).joinpath("commit.lua").read_text("utf-8")
"""The script's source; its header lists keys, arguments and the reply."""

SHA = hashlib.sha1(LUA.encode(), usedforsecurity=False).hexdigest()
"""The script's digest, for EVALSHA."""

FORMAT = 2
"""The format of the store's data. 1: builds before the marker. 2: `rev`, `owner` and `erased` in snapshots."""

BILLING = "billing"
PUBLISHER = "publisher"
"""The owner of a topic, which computes its state: billing, from a provider's events, or the publisher."""


BILLED = (
    "billing computes this topic from its provider's events: publish under another name, or grant a plan, features and"
    " limits beside what is paid for (POST /v1/tenants/{id}/overrides, planwire grant); if it was erased, revive it"
)
"""The reason for rejecting a publish to a topic of billing."""


class Verdict(StrEnum):
    """The outcome of a change.

    Publishers do not get `billed`; their publish is rejected with the code `topic_is_billed`.
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
"""Error codes of a server that is not a working primary. The command has not run.

When a managed store fails over behind one DNS name, existing connections stay at the old primary. On such a reply a
client drops its connections, so that the next attempt resolves the name again.

READONLY, MASTERDOWN: a replica. LOADING: it loads its data; a demoted primary loads the new primary's data.
UNBLOCKED: it was demoted while a command was blocked. NOREPLICAS: it has lost its replicas; one may be primary now.
NOAUTH: the connection has no login, for example because a proxy has switched to another server.
"""


class PrefixError(ValueError):
    """The text is not a valid prefix; `str()` describes the valid form."""


def check_prefix(text: str) -> str:
    """Return `text` if it is a valid prefix of keys and channels.

    Raises:
        PrefixError: it is not.
    """
    if not _PREFIX.fullmatch(text):
        raise PrefixError(
            f"{text[:80]!r} is not a prefix: it has 1 to 64 of the characters A-Z a-z 0-9 . _ : / -"
            " and begins with a letter or digit (no braces, no blanks)"
        )
    return text


def _tagged(name: str) -> str:
    """Return a topic, or another hash tag, in braces. A tenant's usage is in the slot of the tenant."""
    tenant = tenant_of(name) if USAGE_KIND in name else ""
    return f"{{{tenant}}}:{USAGE_KIND}" if tenant else f"{{{name}}}"


@dataclass(frozen=True, slots=True)
class Names:
    """The names of keys and channels of one installation.

    Attributes:
        prefix: the common prefix of keys and channels (`PLANWIRE_PREFIX`).
        database: the number of the database, 0 on a Cluster. Channels of database 0 do not name it.
    """

    prefix: str = DEFAULT_PREFIX
    database: int = 0

    @property
    def scope(self) -> str:
        """The common prefix of channels: `prefix`, and the database unless it is 0."""
        # "@" is not allowed in a prefix, so these channels cannot collide with those of another prefix.
        return f"{self.prefix}@{self.database}" if self.database else self.prefix

    def channel(self, topic: str) -> str:
        """Return the channel on which the topic's commits are announced."""
        return f"{self.scope}:{_tagged(topic)}"

    def head(self, tag: str) -> str:
        """Return the common beginning of the keys with this hash tag; each key is HEAD:NAME."""
        return f"{self.prefix}:{_tagged(tag)}"

    @property
    def schema(self) -> str:
        """The key of the hash with the format of the installation's data (see `sync.store.checks.inspection`)."""
        return f"{self.head('schema')}:format"

    def snap(self, topic: str) -> str:
        """Return the key of the hash version, rev, public, owner, state, private, digest and others (commit.lua)."""
        return f"{self.head(topic)}:snap"

    def log(self, topic: str) -> str:
        """Return the key of the capped stream of committed versions."""
        return f"{self.head(topic)}:log"

    def seen(self, topic: str) -> str:
        """Return the key of the sorted set of event ids: of the last seven days, and at most the newest 10,000."""
        return f"{self.head(topic)}:seen"


def order_token(order: int | str) -> str:
    """Return the token of an order value for bytewise comparison: integers are zero-padded to 20 digits."""
    return f"{order:020d}" if isinstance(order, int) else order


VERSION_FIELDS = ("version", "rev", "public")
"""The fields of a snapshot that `version_of` needs; commit.lua describes them."""


def version_of(version: bytes | None, rev: bytes | None, public: bytes | None) -> int:
    """Return the version of a snapshot's public state from its VERSION_FIELDS; 0 if there is none."""
    return int(public if public is not None and rev == version else version or 0)


def patch_argument(base: int, old: bytes, new: bytes) -> bytes:
    """Return the script's patch argument, `BASE PATCH`; empty if there is no merge patch or it is not smaller.

    Args:
        base: the version of `old`, 0 for none.
        old: the presumed stored state, JSON. The script drops the patch if `base` is not the stored version.
        new: the state to commit, canonical JSON.
    """
    patch = merge_patch.diff(orjson.loads(old), orjson.loads(new)) if base else None
    if patch is None:
        return b""
    encoded = orjson.dumps(patch, option=orjson.OPT_SORT_KEYS)
    return b"%d %b" % (base, encoded) if len(encoded) < len(new) else b""


STATE_AT, PATCH_AT = 2, 8
"""Positions of the state and the patch in the arguments."""


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
    beside: tuple[bytes, bytes] | None = None,
) -> tuple[list[str], list[bytes | str]]:
    """Return the script's keys and arguments, in its order.

    Args:
        names: the names of the installation.
        topic: the topic's name, already checked.
        state: the whole public state, canonical JSON.
        private: the private part, canonical JSON or empty.
        is_sharded: whether the store is a Cluster, which announces with SPUBLISH.
        event_id: deduplication key, remembered for seven days; empty for none.
        order: an `order_token`; empty for none.
        if_version: the required stored version (0: no state yet); None for any.
        cause: the cause as a JSON object, or empty.
        patch: a `patch_argument`.
        owner: BILLING or PUBLISHER.
        erases: whether this is the topic's erasure.
        if_rev: the required stored rev (0: no state yet); None for any.
        beside: the state and the private part to store beside these, unseen by readers; None to leave what is there.
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
        *(() if beside is None else beside),
    ]


def wrong_server_code(error: object) -> str:
    """Return the code if the error means that the server is not a working primary; "" for anything else."""
    if not isinstance(error, BaseException):
        return ""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if code in WRONG_SERVER_CODES:
        return str(code)
    # Redis before 7 wraps the error of a script's command: "Error running script (...): -READONLY You can't ...".
    return "READONLY" if ": -READONLY " in str(error) else ""
