"""Writes a scenario's script: all deliveries, before any is sent. Pure.

The same scenario, seed and start time give the same script. The history runs in its own world; then the delivery faults
are applied to the deliveries of its events. The expected final states are read from that world, not from the events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

import orjson

from sync.billing.catalog.catalog import Catalog
from sync.simulator.paddle import entities
from sync.simulator.scenarios.scenario import Faults, Scenario
from sync.simulator.world import actions, ids, offers, rules
from sync.simulator.world.errors import ApiError, ControlError
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import SECOND_US, Adjustment, Event, Json, Subscription, Transaction, World
from sync.simulator.world.offers import Offers
from sync.simulator.world.scene import Scene
from sync.simulator.world.turn import Outcome, Turn

STALE_S = 2 * 24 * 3600
"""Age of a stale delivery's signature: more than any receiver should tolerate."""

TRIES = 20
"""Draws of a random action for a tenant until one is possible; then the tenant's turn is skipped."""

Kind = Literal["genuine", "forged", "stale"]


@dataclass(frozen=True, slots=True)
class Send:
    """One delivery. `skew_s` is added to the signing clock; `pause_s` is the pause before the delivery."""

    kind: Kind
    event_id: str
    event_type: str
    tenant: str
    body: bytes
    skew_s: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Expected:
    """A tenant's expected final state, or that of one of its applications.

    It has the plan's key ("" for none), and values of the leading subscription: its status (`none` without a
    subscription) and, if it is live, the scheduled action and the end of the paid period (microseconds since 1970).
    """

    plan: str
    status: str
    scheduled: str | None = None
    period_ends_us: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The deliveries, in order, and each tenant's expected final state.

    `expected`: of the leading application, by tenant. `others`: of the other applications, by (tenant, application).
    """

    sends: tuple[Send, ...]
    expected: Mapping[str, Expected]
    events: int
    others: Mapping[tuple[str, str], Expected] = field(default_factory=dict)


def write(scenario: Scenario, seed: int, start_us: int, catalog: Catalog) -> Script:
    """Return the script of a scenario.

    The seed determines actions and faults; seed and start together determine every byte. The history ends at
    `start_us`, so no event is in the future (except by the fault `ahead_s`). Tenants' names contain the seed and the
    start, so that runs do not share tenants. Of a catalog with applications, each random action is about one of them.

    Raises:
        ControlError: the scenario's history has an action that makes no sense.
        ApiError: the history has an action that the provider rejects.
    """
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    run = f"{seed}-{ids.encode(start_us // 1000, ids.TIME_CHARS)}"
    tenants = [f"scenario-{run}-{number}" for number in range(scenario.tenants)]
    # Ids have their own random source: they use a varying amount, by the start, and actions must not depend on that.
    mint = Mint(Random(~seed))  # noqa: S311 - repeatable on purpose
    longest_s = len(tenants) * (len(scenario.history) + scenario.actions) * scenario.step_s
    began_us = start_us + (scenario.faults.ahead_s - longest_s) * SECOND_US
    world = _Stage(scenario, catalog, tenants, mint, random, began_us).play()
    leading = _Judge(world, catalog, offers.of_app(catalog, scenario.env))
    apps = {app: _Judge(world, catalog, offers.of_app(catalog, scenario.env, app)) for app in catalog.apps}
    apps.pop(catalog.leading, None)
    sends = _with_outage(scenario.faults, _with_faults(scenario.faults, world.events, mint, random), random)
    return Script(
        tuple(sends),
        {tenant: leading.expected(tenant) for tenant in tenants},
        len(world.events),
        {(tenant, app): judge.expected(tenant) for tenant in tenants for app, judge in apps.items()},
    )


@dataclass
class _Stage:
    """Runs a history, from `now_us` on."""

    scenario: Scenario
    catalog: Catalog
    tenants: Sequence[str]
    mint: Mint
    random: Random
    now_us: int
    world: World = field(default_factory=World)
    events: list[Event] = field(default_factory=list)

    def play(self) -> World:
        """Return the world after the history, with all events (beyond EVENTS_KEPT too)."""
        for entry in self.scenario.history:
            for tenant in self.tenants:
                self._act(tenant, entry)
        if self.scenario.mix:
            for _ in range(self.scenario.actions * len(self.tenants)):
                self._act_at_random(self.random.choice(self.tenants))
        return replace(self.world, events=tuple(self.events))

    def _act_at_random(self, tenant: str) -> None:
        for _ in range(TRIES):
            (action,) = self.random.choices(list(self.scenario.mix), list(self.scenario.mix.values()))
            try:
                app = self.random.choice([*self.catalog.apps]) if self.catalog.apps else ""
                about: dict[str, Json] = {"app": app} if app else {}
                self._act(tenant, {"do": action, **about, **self._parameters(action, app)})
            except (ControlError, ApiError):
                continue
            return

    def _parameters(self, action: str, app: str) -> Mapping[str, Json]:
        sold = offers.of_app(self.catalog, self.scenario.env, app)
        match action:
            case "seats":
                return {"quantity": self.random.randint(1, 20)}
            case "addon" | "remove_addon" if addons := [each.key for each in sold.addons if each.is_subscribed_to]:
                return {"addon": self.random.choice(addons)}
            case "buy" if once := sold.once:
                kind, key = self.random.choice(once)
                return {kind: key}
            case "refund":
                return {} if self.random.random() < 0.5 else {"amount": self.random.randint(1, 2_000)}
            case "cancel" | "pause" | "downgrade":
                return {"when": self.random.choice(["now", "period_end"])}
            case _:
                return {}

    def _act(self, tenant: str, entry: Mapping[str, Json]) -> None:
        for due in self.world.due(self.now_us):
            self._keep(rules.renew(self._turn(), self.world.subscriptions[due]))
        action = str(entry["do"])
        given = {name: value for name, value in entry.items() if name != "do"}
        params = actions.read(action, {"tenant": tenant, **given})
        sold = offers.of_app(self.catalog, self.scenario.env, params.app or "", params.plan or params.addon or "")
        self._keep(actions.act(action, Scene(self._turn(), sold, params)))
        self.now_us += self.random.randint(1, self.scenario.step_s * SECOND_US)

    def _turn(self) -> Turn:
        return Turn(self.world, self.now_us, self.mint)

    def _keep(self, outcome: Outcome) -> None:
        self.world = outcome.world
        self.events += outcome.events


def _with_faults(faults: Faults, events: Sequence[Event], mint: Mint, random: Random) -> list[Send]:
    """Return the deliveries of the events, with the faults applied."""
    placed: list[tuple[float, int, Send]] = []

    def place(at: float, send: Send) -> None:
        placed.append((at, len(placed), send))

    for index, event in enumerate(events):
        send = _send(event, mint, faults, random)
        at = float(index)
        if random.random() < faults.stale:
            place(at, replace(send, kind="stale", skew_s=-STALE_S))
            at += random.uniform(0, faults.window)
        if random.random() < faults.reorder:
            at += random.uniform(-faults.window, faults.window)
        if random.random() < faults.drop:
            # The first attempt is lost; the receiver gets only the retry.
            at += random.uniform(faults.window, 3 * faults.window)
        if random.random() < faults.late:
            at = len(events) + random.uniform(0, len(events))
        place(at, send)
        if random.random() < faults.duplicate:
            again = send if random.random() < 0.5 else _send(event, mint, faults, random)
            # Half of the copies follow immediately, so that both are in flight at the same time.
            place(at if random.random() < 0.5 else at + random.uniform(0, 2 * faults.window), again)
        if random.random() < faults.forge:
            place(at + random.uniform(-1, 1), _forged(event, mint, faults, random))
    return [send for _, _, send in sorted(placed, key=lambda entry: entry[:2])]


def _with_outage(faults: Faults, sends: list[Send], random: Random) -> list[Send]:
    """Return the deliveries, with those of the outage sent after it in random order."""
    first, last = round(len(sends) * faults.outage_from), round(len(sends) * faults.outage_to)
    held = sends[first:last]
    random.shuffle(held)
    if held:
        held[0] = replace(held[0], pause_s=faults.outage_s)
    return [*sends[:first], *held, *sends[last:]]


def _send(event: Event, mint: Mint, faults: Faults, random: Random) -> Send:
    body = orjson.dumps(entities.envelope(event, mint("ntf", event.occurred_us)))
    return Send(
        "genuine", event.id, event.type, _tenant(event.data), body, random.randint(-faults.skew_s, faults.skew_s)
    )


def _forged(event: Event, mint: Mint, faults: Faults, random: Random) -> Send:
    """Return a forged copy of the event, signed with another secret: it is newer and ends the tenant's access."""
    forged = replace(event, id=mint("evt", event.occurred_us), occurred_us=event.occurred_us + 1)
    if isinstance(event.data, Subscription):
        forged = replace(forged, data=replace(event.data, status="canceled", updated_us=event.data.updated_us + 1))
    return replace(_send(forged, mint, faults, random), kind="forged")


def _tenant(of: Subscription | Transaction | Adjustment) -> str:
    """Return the tenant of an event; of an adjustment, which names none, its customer."""
    if isinstance(of, Adjustment):
        return of.customer_id
    return str((of.custom_data or {}).get("tenant_id", ""))


_BEST_FIRST = ("active", "trialing", "past_due", "paused", "canceled")


@dataclass(frozen=True)
class _Judge:
    """Says what is expected of a tenant in one application, or in a catalog without any; `offers` are sold for it."""

    world: World
    catalog: Catalog
    offers: Offers

    def expected(self, tenant: str) -> Expected:
        """Return the expected final state, from what the tenant pays for with the highest-ranking plan."""
        every: list[Subscription | Transaction] = [*self.world.subscriptions.values()]
        every += [purchase.payment for purchase in self.world.purchases.values()]
        mine = [each for each in every if _tenant(each) == tenant and self._counts(each)]
        live = [each for each in mine if self._status(each) not in ("paused", "canceled")]
        if not live:
            status = min(map(self._status, mine), key=_BEST_FIRST.index, default="none")
            return Expected(self.offers.default.key, status)
        lead = max(live, key=self._order)
        key = self._order(lead)[1] or self.offers.default.key
        if isinstance(lead, Transaction):
            return Expected(key, "active")
        action = None if lead.scheduled is None else lead.scheduled.action
        # A past-due period is not paid.
        ends_us = None if lead.status == "past_due" else lead.period.ends_us
        return Expected(key, lead.status, action, ends_us)

    def _counts(self, held: Subscription | Transaction) -> bool:
        """Return whether it gives the application a status: add-ons for all do so alone, and in the leading one."""
        if not self.offers.app:
            return True
        whole = offers.of(self.catalog, self.offers.env)
        bought = [offer for item in held.items if (offer := whole.offer(item.price.id)) is not None]
        named = {offer.app for offer in bought if offer.app or offer in whole.plans}
        return bool(named & {"", self.offers.app}) or (not named and self.offers.app == self.catalog.leading)

    def _order(self, held: Subscription | Transaction) -> tuple[int, str, int]:
        plan = self.offers.plan_of(held)
        rank, key = (-1, "") if plan is None else (plan.rank, plan.key)
        return rank, key, -_BEST_FIRST.index(self._status(held))

    def _status(self, held: Subscription | Transaction) -> str:
        if isinstance(held, Subscription):
            return held.status
        return "canceled" if self.world.is_back(held) else "active"
