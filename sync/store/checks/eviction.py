"""The keys that a store may evict, by its `maxmemory-policy`. Pure.

When its memory is full, Redis or Valkey rejects writes (`noeviction`), removes any key (`allkeys-*`), or removes keys
with an expiry (`volatile-*`). An evicted state reads as if its tenant had never had one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNKNOWN = "unknown"
"""The policy of a server that does not report it."""

POLICIES = frozenset(("noeviction", "volatile-ttl", UNKNOWN)).union(
    [f"{keys}-{order}" for keys in ("allkeys", "volatile") for order in ("lru", "lfu", "lrm", "random")]
)
"""The policies with a metric label of their own; any other is counted as "other"."""

VOLATILE_KEYS = "event ids seen (dedupe), revoked tokens, finished webhooks, previews, rate budgets, leases, probes"
"""The keys with an expiry, which may be evicted under `volatile-*`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One server's memory settings. policy: as reported, or UNKNOWN; maxmemory: bytes, 0 for no limit."""

    policy: str = UNKNOWN
    maxmemory: int = 0

    @property
    def evicts_everything(self) -> bool:
        """Whether any key may be evicted. It counts without `maxmemory` too: a limit can be set at any time."""
        return self.policy.startswith("allkeys-")

    @property
    def evicts_volatile(self) -> bool:
        """Whether keys with an expiry are evicted once the memory is full."""
        return self.policy.startswith("volatile-") and self.maxmemory > 0


def read(info: Mapping[str, object]) -> Memory:
    """Return the memory settings in redis-py's reply to `INFO memory`."""
    policy, limit = info.get("maxmemory_policy"), info.get("maxmemory", 0)
    return Memory(str(policy) if policy else UNKNOWN, limit if isinstance(limit, int) else 0)


def gauge(servers: Sequence[Memory]) -> dict[str, float]:
    """Return policy -> whether it evicts any of our keys: 1, 0, or NaN if that is unknown."""
    found: dict[str, float] = {}
    for memory in servers:
        evicts = math.nan if memory.policy == UNKNOWN else float(memory.evicts_everything or memory.evicts_volatile)
        label = memory.policy if memory.policy in POLICIES else "other"
        found[label] = max(found.get(label, evicts), evicts)
    return found


def refusal(servers: Sequence[Memory]) -> str:
    """Return why the store must not be used, and what to do; "" if it may be used."""
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
    """Return a warning about the keys with an expiry that the store may evict; "" if it evicts none."""
    for memory in servers:
        if memory.evicts_volatile:
            return (
                f"the store's maxmemory-policy is {memory.policy}: when its memory is full it removes keys with an"
                f" expiry ({VOLATILE_KEYS}). Set it to noeviction (docs/stores.md)"
            )
    return ""
