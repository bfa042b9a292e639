"""Publish keys: whose they are, what each may do, and how fast. Pure; knows hashes only, never a key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.auth.rights import EVERYTHING, Grant, Rights

KEY_MAX_CHARS = 512
"""Characters of a presented key that are looked at; a longer one is wrong."""

BURST_S = 1.0
"""A key may use this many seconds' worth of its rate at once."""


class TokenBucket:
    """A rate: `rate` units a second, `burst` at once. Time is an argument, in seconds of any steady clock."""

    __slots__ = ("_at", "_credit", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        """Start full."""
        self.rate = rate
        self.burst = burst
        self._credit = burst
        self._at = 0.0

    def take(self, units: float, now: float) -> float:
        """Return 0.0 having taken `units`, or the seconds until they can be had, having taken nothing.

        More than `burst` units are had when the bucket is full, and put it in debt: a batch larger than the burst is
        slow, not impossible.
        """
        credit = min(self.burst, self._credit + max(0.0, now - self._at) * self.rate)
        self._credit, self._at = credit, now
        missing = min(units, self.burst) - credit
        # A hair of tolerance: credit grows by rounded steps, and a wait of nothing must be enough.
        if missing > 1e-9:
            return missing / self.rate
        self._credit = credit - units
        return 0.0


@dataclass(slots=True)
class PublishKey:
    """One backend's key: its `name` for causes and logs, its SHA-256, its rate in this process, and its rights."""

    name: str
    digest: bytes = field(repr=False)
    bucket: TokenBucket
    rights: Rights = EVERYTHING


class PublishKeys:
    """The configured publish keys."""

    def __init__(
        self,
        entries: Iterable[tuple[str, str, float | None]],
        grants: Iterable[Grant] = (),
        *,
        default_rate: float,
    ) -> None:
        """Take the keys and their rights.

        Args:
            entries: name, SHA-256 hex and requests per second of each key (None: `default_rate`).
            grants: what the keys may do. A key that none of them names may do everything.
            default_rate: requests per second; each publish of a batch counts as one.
        """
        by_key: dict[str, list[Grant]] = {}
        for grant in grants:
            by_key.setdefault(grant.key, []).append(grant)
        self._keys = []
        for name, digest, rate in entries:
            per_s = default_rate if rate is None else rate
            bucket = TokenBucket(per_s, max(1.0, per_s * BURST_S))
            rights = Rights(by_key[name]) if name in by_key else EVERYTHING
            self._keys.append(PublishKey(name, bytes.fromhex(digest), bucket, rights))

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: str) -> PublishKey | None:
        """Return the key that was presented, or None. Takes the same time whichever key is meant, right or wrong."""
        if not presented or len(presented) > KEY_MAX_CHARS:
            return None
        digest = hash_key(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def hash_key(key: str) -> bytes:
    """Return the SHA-256 of a key's text; its hex form is what PUBLISH_KEYS takes.

    Plain SHA-256 is right for keys that are long and random, and wrong for passwords: generate the keys.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
