"""Calls about tenants' usage: each is counted by the script, against the newest entitlements."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from planwire_client.core.commit import BILLING, PUBLISHER
from planwire_client.core.topic import environment_of, usage_topic
from sync.core.pauses import Pauses
from sync.store.command_pipeline import Argument, CommandPipeline, failure
from sync.store.models import StoreError
from sync.store.store import Store
from sync.usage import script
from sync.usage.meters import Meters
from sync.usage.terms import terms

Counting = Literal["consume", "release", "set", "reserve", "finalize", "cancel", "adjust", "grant"]
Operation = Counting | Literal["read", "show", "restore", "erase"]

PUSH_US = 250_000
"""Least time between two announcements of one tenant's usage."""

ROUNDS_MAX = 10
"""Repetitions of a call whose terms changed meanwhile, or which reaches a threshold."""

RUN_MAX = 100
"""Calls of one tenant in one run of the script. They keep the store from others for about 2 ms."""

MADE_KEY = "call "
"""Begins the key of a call that came without one. A caller's own keys have no space."""

UNBILLED = "-unbilled"
"""Ends the digest of meters where no tenant has the default plan: terms are computed anew when billing is set up."""

UNLIMITED = -1
"""A limit, and what is left of it, without bound."""


_USAGE = script.load()


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        tenant: the topic of the tenant.
        operation: what to do; `read` brings the usage topic up to date, `show` also returns what is used, `restore`
            writes back what the store has lost, `erase` removes everything.
        meter: the meter's name; empty for `read`.
        amount: units, 1 or more; 0 or more for `set` and `finalize`; of any sign for `adjust`; the version for
            `restore`.
        key: makes the call idempotent, for a day; empty: one is made, so that the store's connection may send it again.
        id: of the reservation, or of the granted credits; for `adjust` "to" or "by".
        ends_us: when the granted credits end, microseconds since 1970; 0: never.
        lasts_us: how long to reserve, microseconds.
        reason, actor: why and by whom, for `adjust` and `grant`; `reason` is the state to `restore`.
    """

    tenant: str
    operation: Operation
    meter: str = ""
    amount: int = 0
    key: str = ""
    id: str = ""
    ends_us: int = 0
    lasts_us: int = 0
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call.

    Attributes:
        is_allowed: whether it was counted.
        used: units used, without those reserved.
        reserved: units reserved.
        limit, remaining: UNLIMITED (-1) for no bound.
        ends_us: end of the window, microseconds since 1970; 0: it has none. Of `read`, `show` and `restore` the
            microseconds from now until what is used changes by time alone; 0: it does not.
        version: of the entitlements that it was counted against; 0: the tenant has none, and the default plan counts.
        usage_version: of the usage topic.
        push_in_us: microseconds from now until a `read` is to bring the usage topic up to date; 0: it is.
        reached: the highest threshold that is reached; 0: none.
        over: units beyond the limit.
        is_repeated: whether it was counted earlier, under the same key.
        meters: of `show`, what is used of all meters, JSON.
    """

    is_allowed: bool
    used: int
    reserved: int
    limit: int
    remaining: int
    ends_us: int
    version: int
    usage_version: int
    push_in_us: int
    reached: int
    over: int
    is_repeated: bool
    meters: bytes = b""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A call that changed nothing, because it cannot be counted.

    `code`: meter_unknown, limit_unknown, key_reused, reservation_unknown, reservations_full, grants_full or
    tenant_erased.
    """

    code: str


class UsageCalls:
    """Sends calls. One per process."""

    def __init__(
        self,
        store: Store,
        meters: Callable[[], Meters],
        arm: Callable[[CommandPipeline, str], None] = lambda batch, tenant: None,
        push_us: int = PUSH_US,
        is_billed: Callable[[str], bool] = lambda environment: True,
    ) -> None:
        """Count by the meters of a catalog that may be edited.

        Args:
            store: the store.
            meters: returns the present meters.
            arm: adds to a batch what schedules the report of a threshold that a tenant is about to reach.
            push_us: least time between two announcements of one tenant's usage, microseconds.
            is_billed: whether billing computes the tenants of an environment: those without a state have the default
                plan. In others, nothing is known of a tenant without a state.
        """
        self._store = store
        self._meters = meters
        self._arm = arm
        self._push_us = push_us
        self._is_billed = is_billed

    async def run(self, calls: Sequence[Call]) -> list[Answer | Rejected | StoreError]:
        """Return what came of each call, in order. Those of one tenant are counted in order.

        A call of a meter that the catalog does not have is rejected without a question to the store.
        """
        meters, found = self._meters(), dict[int, Answer | Rejected | StoreError]()
        waiting = dict[str, _Waiting]()
        for index, call in enumerate(calls):
            if call.meter and call.meter not in meters.by_name:
                found[index] = Rejected("meter_unknown")
            else:
                waiting.setdefault(call.tenant, _Waiting()).calls.append((index, _with_key(call)))
        rounds = ROUNDS_MAX + len(calls) // RUN_MAX
        while waiting and rounds:
            rounds -= 1
            try:
                await self._round(waiting, meters, found)
            except StoreError as error:
                found |= {index: error for one in waiting.values() for index, _ in one.calls}
                waiting.clear()
            waiting = {tenant: one for tenant, one in waiting.items() if one.calls}
        changing = StoreError("the tenant's entitlements kept changing")
        found |= {index: changing for one in waiting.values() for index, _ in one.calls}
        return [found[index] for index in range(len(calls))]

    async def _round(
        self, waiting: Mapping[str, _Waiting], meters: Meters, found: dict[int, Answer | Rejected | StoreError]
    ) -> None:
        """Send the first calls of each tenant. Move those that have an answer to `found`."""
        pipeline = CommandPipeline(self._store)
        for tenant, one in waiting.items():
            self._add(pipeline, tenant, one, meters.digest)
        await self._prepare(waiting)
        pauses = Pauses()
        for (tenant, one), replies in zip(waiting.items(), await pipeline.attempt(), strict=True):
            one.terms, one.is_listed = b"", False
            if isinstance(replies, Exception):
                # The later ones are not sent: they would be counted before these.
                found |= {index: failure(replies) for index, _ in one.calls}
                one.calls.clear()
                continue
            for reply in replies:
                if reply[0] == b"terms":
                    version, owner, state, periods, now = reply[1:]
                    computed_by = owner.decode() if int(version) else self._owner_of(tenant)
                    one.terms = terms(meters, version.decode(), computed_by, state, periods, int(now))
                    # Who asks about a tenant that nobody knows lists nothing.
                    one.is_listed = bool(meters.by_name) and (one.calls[0][1].operation != "show" or int(version) > 0)
                    await pauses.due()
                elif reply[0] == b"arm":
                    one.is_armed = True
                else:
                    index, _ = one.calls.popleft()
                    found[index] = _answer(reply)

    async def _prepare(self, waiting: Mapping[str, _Waiting]) -> None:
        """Store, before the calls, what must not be lost if this process ends after them.

        A tenant whose terms are new is put into the list of tenants with usage each time: a store may have lost some.
        """
        batch = CommandPipeline(self._store)
        for tenant, one in waiting.items():
            if one.is_armed:
                self._arm(batch, tenant)
            if one.is_listed:
                batch.command("ZADD", self._store.keys.usage_tenants(environment_of(tenant)), 0, tenant)
        await batch.run()

    def _owner_of(self, tenant: str) -> str:
        """Return who is to compute the state of a tenant that has none."""
        return BILLING if self._is_billed(environment_of(tenant)) else PUBLISHER

    def _add(self, pipeline: CommandPipeline, tenant: str, one: _Waiting, digest: str) -> None:
        """Add a run of a tenant's first calls. Only the first of them brings new terms."""
        keys, usage = self._store.keys, usage_topic(tenant)
        head, new_terms = keys.usage(tenant, ""), one.terms
        if self._owner_of(tenant) != BILLING:
            digest += UNBILLED
        arguments: list[Argument] = []
        for _, call in islice(one.calls, RUN_MAX):
            arguments += (
                call.operation,
                digest,
                new_terms,
                "SPUBLISH" if self._store.is_sharded else "PUBLISH",
                keys.channel(usage),
                self._push_us,
                "1" if one.is_armed else "",
                call.meter,
                call.amount,
                call.key,
                call.id,
                call.lasts_us or call.ends_us,
                call.reason,
                call.actor,
            )
            new_terms = b""
        own = [head + name for name in script.KEYS]
        pipeline.script(_USAGE, [keys.snap(tenant), keys.snap(usage), *own], *arguments)


@dataclass(slots=True)
class _Waiting:
    """Calls of one tenant that have no answer yet.

    Attributes:
        calls: with their positions.
        terms: what the first call brings.
        is_armed: whether the report of thresholds is scheduled before each run, as a call has asked for.
        is_listed: whether the tenant is put into the list of tenants with usage before the next run.
    """

    calls: deque[tuple[int, Call]] = field(default_factory=deque)
    terms: bytes = b""
    is_armed: bool = False
    is_listed: bool = False


_KEYED = frozenset(("consume", "release", "set", "adjust", "grant"))
"""The operations that count again if they are sent again; those of reservations have an id."""


def _with_key(call: Call) -> Call:
    if call.key or call.operation not in _KEYED:
        return call
    return replace(call, key=MADE_KEY + secrets.token_hex(8))


def _answer(reply: list[bytes]) -> Answer | Rejected:
    if reply[0] == b"refused":
        return Rejected(reply[1].decode())
    meters = reply[13] if len(reply) > 13 else b""
    used, reserved, limit, remaining, ends_us, version, usage_version, push_in_us, reached, over = map(int, reply[2:12])
    return Answer(
        is_allowed=reply[1] == b"1",
        used=used,
        reserved=reserved,
        limit=limit,
        remaining=remaining,
        ends_us=ends_us,
        version=version,
        usage_version=usage_version,
        push_in_us=push_in_us,
        reached=reached,
        over=over,
        is_repeated=reply[12] == b"1",
        meters=meters,
    )
