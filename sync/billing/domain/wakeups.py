"""Computes when a tenant must be evaluated next although no event arrives. Pure."""

from __future__ import annotations

from collections.abc import Collection

from sync.billing.domain.model import Facts
from sync.billing.domain.projection import Projected
from sync.core import instants

ASK_AGAIN_MIN_S, ASK_AGAIN_MAX_S = 10, 900
"""Bounds of the wait before the provider is asked again about an overdue change: half of how long it is overdue."""

EXECUTE_AGAIN_S = 300
"""Wait before the provider is asked again to make a scheduled change that it refused."""


def next_wakeup_us(
    projected: Projected, facts: Facts, environment: str, askable: Collection[tuple[str, str]], now_us: int
) -> int | None:
    """Return when a topic must be evaluated again, in microseconds since 1970, or None for never.

    That is when its state may change, when an askable provider is due to be asked about it again, or when it is due to
    be asked for a scheduled change.

    Args:
        askable: the providers that can be asked, each with its environment.
    """
    due_us = _up(projected.valid_until_ns)
    if not any(name == environment for _, name in askable):
        return due_us
    change = facts.scheduled_change
    entry = None if change is None else facts.subscriptions.get(change.subscription)
    if change is not None and not change.executed and entry is not None and (entry.provider, environment) in askable:
        # Not tried yet: at its time, even if that is now, because a bill locks the subscription soon after.
        again_s = EXECUTE_AGAIN_S if change.problem else 0
        execute_us = max(-(-change.execute_ns // 1000), now_us + again_s * 1_000_000)
        due_us = execute_us if due_us is None else min(due_us, execute_us)
    pending = projected.state.get("pending")
    if pending is None:
        return due_us
    since_s = (now_us - instants.parse(pending["since"]) // 1000) / 2_000_000
    again_us = now_us + int(min(max(since_s, ASK_AGAIN_MIN_S), ASK_AGAIN_MAX_S) * 1_000_000)
    return again_us if due_us is None else min(due_us, again_us)


def _up(ns: int | None) -> int | None:
    """Return the instant in microseconds, rounded up: a timer must not fire before it."""
    return None if ns is None else -(-ns // 1000)
