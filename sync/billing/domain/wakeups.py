"""When time, and nothing else, calls for a look at a topic. Pure."""

from __future__ import annotations

from collections.abc import Collection

from sync.billing.domain.model import Facts
from sync.billing.domain.projection import Projected
from sync.core import instants

ASK_AGAIN_MIN_S, ASK_AGAIN_MAX_S = 10, 900
"""How soon the provider is asked again about a change that is overdue: after half the time that it has been so."""

EXECUTE_AGAIN_S = 300
"""When the provider is told again to make a held change that it would not make."""


def wake_us(
    projected: Projected, facts: Facts, environment: str, sources: Collection[tuple[str, str]], now_us: int
) -> int | None:
    """Return when time has to look at a topic again, in microseconds since 1970, or None for never.

    That is when its state may change, or when a provider that can be asked (`sources`: provider and environment) is due
    to be asked about it again, or to be told to change it.
    """
    due_us = _up(projected.valid_until_ns)
    if not any(name == environment for _, name in sources):
        return due_us
    held = facts.held
    entry = None if held is None else facts.subscriptions.get(held.subscription)
    if held is not None and not held.executed and entry is not None and (entry.provider, environment) in sources:
        # Not yet tried, it is at its time, which may be now: a bill locks the subscription soon after.
        again_s = EXECUTE_AGAIN_S if held.problem else 0
        execute_us = max(-(-held.execute_ns // 1000), now_us + again_s * 1_000_000)
        due_us = execute_us if due_us is None else min(due_us, execute_us)
    pending = projected.state.get("pending")
    if pending is None:
        return due_us
    since_s = (now_us - instants.parse(pending["since"]) // 1000) / 2_000_000
    again_us = now_us + int(min(max(since_s, ASK_AGAIN_MIN_S), ASK_AGAIN_MAX_S) * 1_000_000)
    return again_us if due_us is None else min(due_us, again_us)


def _up(ns: int | None) -> int | None:
    """The instant in microseconds, rounded up: a timer must not fire before it."""
    return None if ns is None else -(-ns // 1000)
