"""When a topic must be evaluated again without an event. Pure."""

from __future__ import annotations

from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Projected
from sync.billing.domain.facts.model import Facts
from sync.core import instants

ASK_AGAIN_MIN_S, ASK_AGAIN_MAX_S = 10, 900
"""Bounds of the delay before the provider is asked again about an overdue change: half of the time overdue."""

EXECUTE_AGAIN_S = 300
"""Delay before the provider is asked again to make a scheduled change after a failed attempt."""


def next_wakeup_us(projected: Projected, facts: Facts, setting: Setting) -> int | None:
    """Return when a topic must be evaluated again without an event, in microseconds since 1970, or None for never.

    It is the earliest of: the state's next change by time, the next query to the provider, the next attempt at a
    scheduled plan change, the end of the wait for a previewed change, and of that for a quoted bill.
    """
    now_us, due_us = setting.now_ns // 1000, []
    if projected.valid_until_ns is not None:
        due_us.append(_rounded_up_us(projected.valid_until_ns))
    due_us += [_rounded_up_us(one.until_ns) for one in facts.awaited_previews]
    due_us += [_rounded_up_us(one.due_ns) for one in facts.awaited_bills]
    if any(environment == setting.environment for _, environment in setting.askable):
        for change in facts.scheduled_changes:
            entry = facts.subscriptions.get(change.subscription)
            is_askable = entry is not None and (entry.provider, setting.environment) in setting.askable
            if not change.executed and is_askable:
                # The first attempt has no delay, even if it is due now: soon the bill locks the subscription.
                again_s = EXECUTE_AGAIN_S if change.problem else 0
                due_us.append(max(_rounded_up_us(change.execute_ns), now_us + again_s * 1_000_000))
        for state in (projected.state, *projected.state.get("apps", {}).values()):
            pending = state.get("pending")
            if pending is not None:
                half_s = (now_us - instants.parse(pending["since"]) // 1000) / 2_000_000
                due_us.append(now_us + int(min(max(half_s, ASK_AGAIN_MIN_S), ASK_AGAIN_MAX_S) * 1_000_000))
    return min(due_us, default=None)


def _rounded_up_us(ns: int) -> int:
    """Return the instant in microseconds: a timer must not fire before it."""
    return -(-ns // 1000)
