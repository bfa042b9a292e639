"""The attempts of calls about usage, and what the policy makes of those without an answer. Pure: the caller sends and
sleeps.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from planwire_client.delivery import Retries, Retryable, Sleep
from planwire_client.errors import UsageRefused, UsageUnavailable
from planwire_client.usage.answers import Counted
from planwire_client.usage.calls import UsageCall, batches

log = logging.getLogger("planwire_client")

USAGE_RETRIES = Retries(attempts=3, total_timeout_s=3.0, backoff_min_s=0.05, backoff_max_s=0.5)
"""The retries by default: a call is usually made while somebody waits for an answer."""

ATTEMPT_TIMEOUT_S = 1.5
"""Maximum seconds of one attempt, so that one that hangs leaves time for another."""

Outcome = Counted | UsageRefused
Answers = Sequence[Outcome | Retryable]
Send = Callable[[Sequence[UsageCall], float], Awaitable[Answers]]
"""Makes one attempt to send calls; returns an answer for each. The second argument is the timeout in seconds."""


class OnUnavailable(StrEnum):
    """What a call does when Planwire does not answer: raise UsageUnavailable, or return that the units may be used
    (allow) or not (deny), with `is_known` false."""

    RAISE = "raise"
    ALLOW = "allow"
    DENY = "deny"


async def deliver(
    calls: Sequence[UsageCall],
    retries: Retries,
    send: Send,
    sleep: Sleep,
    now: Callable[[], float],
    chance: Callable[[], float],
    policy: OnUnavailable,
) -> list[Outcome]:
    """Send all calls, with retries; return every call's outcome, in order.

    Args:
        now: a clock in seconds.
        chance: numbers in [0, 1).

    Raises:
        UsageUnavailable: the attempts or the time ran out, and the policy is to raise.
    """
    known: list[Outcome | None] = [None] * len(calls)
    until = now() + retries.total_timeout_s
    for batch in batches(calls):
        pending, failures = batch, 0
        while pending:
            answers = await send([calls[at] for at in pending], _timeout_s(until - now()))
            pending, reply = _note(calls, pending, answers, known)
            if reply is None:
                break
            failures += 1
            # Wait at least the requested time; the jitter spreads the callers.
            pause_s = retries.pause_s(failures, chance()) + (reply.retry_after_s or 0.0)
            if failures >= retries.attempts or now() + pause_s > until:
                _decide(calls, pending, reply, failures, known, policy)
                break
            await sleep(pause_s)
    return [outcome for outcome in known if outcome is not None]


async def read(
    ask: Callable[[float], Awaitable[dict[str, object] | Retryable]],
    retries: Retries,
    sleep: Sleep,
    now: Callable[[], float],
    chance: Callable[[], float],
) -> dict[str, object]:
    """Return the document of an answer, with retries. `ask` makes one attempt within a timeout in seconds.

    Raises:
        UsageUnavailable: the attempts or the time ran out.
    """
    until, failures = now() + retries.total_timeout_s, 0
    while True:
        reply = await ask(_timeout_s(until - now()))
        if not isinstance(reply, Retryable):
            return reply
        failures += 1
        pause_s = retries.pause_s(failures, chance()) + (reply.retry_after_s or 0.0)
        if failures >= retries.attempts or now() + pause_s > until:
            raise UsageUnavailable(reply.detail, failures, (), retry_after_s=reply.retry_after_s)
        await sleep(pause_s)


def _timeout_s(left_s: float) -> float:
    return max(0.1, min(ATTEMPT_TIMEOUT_S, left_s))


def _note(
    calls: Sequence[UsageCall], pending: Sequence[int], answers: Answers, known: list[Outcome | None]
) -> tuple[list[int], Retryable | None]:
    """Store the new outcomes in `known`; return the positions to retry, and why."""
    last_set: dict[tuple[str, str], int] = {}
    for at, answer in zip(pending, answers, strict=True):
        if isinstance(answer, Counted) and calls[at].operation == "set":
            last_set[calls[at].tenant, calls[at].meter] = at
    again: list[int] = []
    why = None
    for at, answer in zip(pending, answers, strict=True):
        call = calls[at]
        if not isinstance(answer, Retryable):
            known[at] = answer
        elif call.operation == "set" and last_set.get((call.tenant, call.meter), -1) > at:
            known[at] = UsageRefused("superseded", "a later set of the meter was counted")
        else:
            again.append(at)
            why = answer
    return again, why


def _decide(
    calls: Sequence[UsageCall],
    pending: Sequence[int],
    reply: Retryable,
    failures: int,
    known: list[Outcome | None],
    policy: OnUnavailable,
) -> None:
    if policy is OnUnavailable.RAISE:
        keys = tuple(call.name for call, outcome in zip(calls, known, strict=True) if outcome is None)
        raise UsageUnavailable(reply.detail, failures, keys, (), tuple(known), reply.retry_after_s)
    log.warning("planwire: %d calls about usage are not known to count (%s): %s", len(pending), policy, reply.detail)
    for at in pending:
        is_allowed = policy is OnUnavailable.ALLOW
        known[at] = Counted(is_allowed, key=calls[at].name, is_known=False, reason=reply.detail)
