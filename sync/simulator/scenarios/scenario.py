"""Torture for a webhook receiver: plays a scenario's script against it, and checks where the receiver ends.

Works against any stack that takes Paddle's webhooks, given the URL and the signing secret. With a way to read tenants'
states, it also checks that they become what the provider's are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import orjson

from sync.simulator.scenarios import script
from sync.simulator.scenarios.scenario_file import ScenarioError, load
from sync.simulator.scenarios.script import Expected, Scenario, Script
from sync.simulator.scenarios.sender import Sender
from sync.simulator.world import offers
from sync.simulator.world.errors import ApiError, ControlError
from sync.simulator.world.model import Json
from sync.simulator.world.moments import parse as parse_instant
from sync.simulator.world.moments import rfc3339
from sync.simulator.world.offers import CatalogLike

TIMEOUT_S = 10.0
CONVERGE_S = 15.0
"""How long after the last delivery the receiver may take to show the final state."""

POLL_S = 0.1

ReadState = Callable[[str], Awaitable[Json]]
"""Reads a tenant's public state by its topic, such as `tenant:acme` or `sandbox/tenant:acme`."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run. `violations`: each thing that a correct receiver does not do, in one line; none is good.

    `answers`: "200 applied" and the like -> how often; `unread`: no state was read, so only answers were checked.
    """

    title: str
    seed: int
    tenants: int
    events: int
    sends: int
    retries: int
    answers: Mapping[str, int]
    violations: tuple[str, ...]
    unread: bool
    seconds: float

    @property
    def is_ok(self) -> bool:
        """True where nothing was violated."""
        return not self.violations

    def lines(self) -> list[str]:
        """The report as text."""
        answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(self.answers.items())) or "none"
        checked_what = "answers only" if self.unread else f"answers and the state of {self.tenants} tenants"
        return [
            f"{self.title} (seed {self.seed}): {'ok' if self.is_ok else f'{len(self.violations)} violations'}",
            f"  {self.events} events of {self.tenants} tenants in {self.sends} deliveries, {self.retries} retries,"
            f" {self.seconds:.1f} s",
            f"  answers: {answers}",
            f"  checked: {checked_what}",
            *(f"  violation: {violation}" for violation in self.violations),
        ]


def run_scenario(
    name: str | Path,
    seed: int,
    target: str,
    secret: str,
    catalog: CatalogLike,
    read_state: ReadState | None = None,
    start_us: int | None = None,
) -> Report:
    """The report of one run. `name`: a file or a bundled scenario; `target`: the webhook's URL; `secret`: of its
    destination, in the scenario's environment. `read_state`, where given, is used to check the final states; see
    `http_state`. `start_us`: the end of the history, by default now; the same seed and start send the same bytes.

    Raises:
        ScenarioError: the scenario cannot be used, also with this catalog.
    """
    return asyncio.run(torture(load(str(name)), seed, target, secret, catalog, read_state, start_us))


async def torture(
    scenario: Scenario,
    seed: int,
    target: str,
    secret: str,
    catalog: CatalogLike,
    read_state: ReadState | None = None,
    start_us: int | None = None,
) -> Report:
    """As `run_scenario`, for a scenario already read, inside a running event loop."""
    began = time.monotonic()
    start_us = time.time_ns() // 1000 if start_us is None else start_us
    try:
        written = script.write(scenario, seed, start_us, offers.of(catalog, scenario.env))
    except (ControlError, ApiError) as error:
        raise ScenarioError(scenario.title, str(error)) from error
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as http:
        sender = Sender(http, target, secret)
        await sender.send_all(written.sends, scenario.parallel)
    if read_state is not None:
        sender.violations += await _unconverged(scenario.env, written, read_state)
    return Report(
        scenario.title,
        seed,
        scenario.tenants,
        written.events,
        len(written.sends),
        sender.retries,
        sender.answers,
        tuple(sender.violations),
        read_state is None,
        time.monotonic() - began,
    )


def http_state(base_url: str, token: str) -> ReadState:
    """A way to read states from a gateway at `base_url`; the token has to cover the scenario's tenants (`*`)."""

    async def read(topic: str) -> Json:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
            response = await http.get(
                f"{base_url.rstrip('/')}/v1/state/{topic}", headers={"Authorization": f"Bearer {token}"}
            )
        answer: Json = orjson.loads(response.content) if response.status_code == 200 else None
        return answer.get("state") if isinstance(answer, dict) else None

    return read


async def _unconverged(env: str, written: Script, read_state: ReadState) -> list[str]:
    """The tenants whose state is not, in time, what the provider's is; one line each."""
    left = dict(written.expected)
    shown: dict[str, Json] = {}
    deadline = time.monotonic() + CONVERGE_S
    while True:
        for tenant in list(left):
            topic = f"tenant:{tenant}" if env == "live" else f"{env}/tenant:{tenant}"
            shown[tenant] = await read_state(topic)
            if _seen(shown[tenant]) == left[tenant]:
                del left[tenant]
        if not left or time.monotonic() >= deadline:
            break
        await asyncio.sleep(POLL_S)
    return [f"{tenant} ends at {_told(_seen(shown[tenant]))}, not at {_told(it)}" for tenant, it in left.items()]


def _seen(state: Json) -> Expected | None:
    """What a state says, in the terms of what is expected; None where it is none or says something impossible."""
    if not isinstance(state, dict):
        return None
    plan, scheduled, period = (_object(state.get(name)) for name in ("plan", "scheduled", "period"))
    action, ends_at = scheduled.get("action"), period.get("ends_at")
    try:
        ends_us = parse_instant(ends_at) if isinstance(ends_at, str) else None
    except ValueError:
        return None
    is_named = isinstance(action, str)
    return Expected(str(plan.get("key")), str(state.get("status")), str(action) if is_named else None, ends_us)


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _told(it: Expected | None) -> str:
    if it is None:
        return "nothing"
    then = f", then {it.scheduled}" if it.scheduled else ""
    until = f", paid until {rfc3339(it.period_ends_us)}" if it.period_ends_us is not None else ""
    return f"{it.plan} {it.status}{then}{until}"
