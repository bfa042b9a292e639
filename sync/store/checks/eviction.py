"""What a store may evict, by its `maxmemory-policy`. Pure.

Redis and Valkey answer a full memory by one of these: refuse writes (`noeviction`), remove any key (`allkeys-*`), or
remove keys that have an expiry (`volatile-*`). A state that was removed reads as if its tenant had never had one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNKNOWN = "unknown"
"""Stands for the policy of a server that does not tell it."""

POLICIES = frozenset(("noeviction", "volatile-ttl", UNKNOWN)).union(
    [f"{keys}-{order}" for keys in ("allkeys", "volatile") for order in ("lru", "lfu", "lrm", "random")]
)
"""Those that are known by name; any other is counted as "other"."""

VOLATILE_KEYS = "event ids seen (dedupe), revoked tokens, finished webhooks, previews, rate budgets, leases, probes"
"""What has an expiry, and so may be removed under `volatile-*`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one server says of its memory. policy: of POLICIES, or what it says; maxmemory: bytes, 0 for no limit."""

    policy: str = UNKNOWN
    maxmemory: int = 0

    @property
    def evicts_everything(self) -> bool:
        """Whether any key may go. Also without a limit: that can be set at any time, and is set elsewhere on some."""
        return self.policy.startswith("allkeys-")

    @property
    def evicts_volatile(self) -> bool:
        """Whether keys with an expiry go once the memory is full."""
        return self.policy.startswith("volatile-") and self.maxmemory > 0


def read(info: Mapping[str, object]) -> Memory:
    """Return what `INFO memory` tells, in redis-py's form."""
    policy, limit = info.get("maxmemory_policy"), info.get("maxmemory", 0)
    return Memory(str(policy) if policy else UNKNOWN, limit if isinstance(limit, int) else 0)


def gauge(servers: Sequence[Memory]) -> dict[str, float]:
    """Return by policy whether it evicts any of our keys: 1, 0, or NaN where that is not known."""
    found: dict[str, float] = {}
    for memory in servers:
        evicts = math.nan if memory.policy == UNKNOWN else float(memory.evicts_everything or memory.evicts_volatile)
        label = memory.policy if memory.policy in POLICIES else "other"
        found[label] = max(found.get(label, evicts), evicts)
    return found


def refusal(servers: Sequence[Memory]) -> str:
    """Return why such a store must not be used, with what to do; "" where nothing is wrong."""
    for memory in servers:
        if memory.evicts_everything:
            limit = "" if memory.maxmemory else " (it has no maxmemory yet, and may be given one at any time)"
            return (
                f"the store's maxmemory-policy is {memory.policy}{limit}: once its memory is full it removes states, as"
                " if there had never been any. Set maxmemory-policy to noeviction, or use another server"
                " (docs/stores.md)"
            )
    return ""


def warning(servers: Sequence[Memory]) -> str:
    """Return what such a store may remove, if not everything; "" where it removes nothing."""
    for memory in servers:
        if memory.evicts_volatile:
            return (
                f"the store's maxmemory-policy is {memory.policy}: when its memory is full it removes keys with an"
                f" expiry ({VOLATILE_KEYS}). Set it to noeviction (docs/stores.md)"
            )
    return ""
