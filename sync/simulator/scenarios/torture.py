"""Plays a scenario's script against a webhook receiver, and checks its answers and final states.

It works with any receiver of Paddle's webhooks; it needs the URL and the signing secret. If it can read tenants'
states, it also checks that they converge to the provider's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx2
import orjson

from sync.billing.catalog.catalog import Catalog
from sync.core.instants import text_us
from sync.simulator.paddle import webhooks
from sync.simulator.scenarios import script
from sync.simulator.scenarios.scenario import Scenario, ScenarioError
from sync.simulator.scenarios.script import Expected, Script, Send
from sync.simulator.world.errors import ApiError, ControlError
from sync.simulator.world.model import Json, parse_us

TIMEOUT_S = 10.0
CONVERGE_S = 15.0
"""Maximum time after the last delivery until the receiver shows the final state."""

POLL_S = 0.1

RETRIES = 10
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 3.0

FORGER = "pdl_ntfset_of_somebody_else"
"""The signing secret of forged deliveries."""

ReadState = Callable[[str], Awaitable[Json]]
"""Reads a tenant's public state by its topic, such as `tenant:acme` or `sandbox/tenant:acme`."""


@dataclass(slots=True)
class Report:
    """The result of a run.

    `violations`: faults of the receiver, one line each. `answers`: answer, such as "200 applied" -> its count.
    `unread`: no state was read, so only answers were checked.
    """

    title: str
    seed: int
    tenants: int
    events: int
    sends: int
    retries: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    unread: bool = True
    seconds: float = 0.0

    @property
    def is_ok(self) -> bool:
        """Return whether there are no violations."""
        return not self.violations

    def lines(self) -> list[str]:
        """Return the report as text."""
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


async def torture(
    scenario: Scenario, seed: int, target: str, secret: str, catalog: Catalog, read_state: ReadState | None = None
) -> Report:
    """Run a scenario and return the report.

    Args:
        scenario: the scenario.
        seed: random seed; the same seed and time give the same bytes.
        target: the webhook's URL.
        secret: the signing secret of the webhook's destination, in the scenario's environment.
        catalog: the catalog of the receiver.
        read_state: reads the final states to check them; see `http_state`. None: they are not checked.

    Raises:
        ScenarioError: the scenario cannot be used with this catalog.
    """
    began = time.monotonic()
    try:
        written = script.write(scenario, seed, time.time_ns() // 1000, catalog)
    except (ControlError, ApiError) as error:
        raise ScenarioError(scenario.title, str(error)) from error
    report = Report(scenario.title, seed, scenario.tenants, written.events, len(written.sends))
    async with webhooks.client(TIMEOUT_S) as http:
        await _Sender(http, target, secret, report).send_all(written.sends, scenario.parallel)
    if read_state is not None:
        report.unread = False
        report.violations += await _unconverged(scenario.env, written, read_state)
    report.seconds = time.monotonic() - began
    return report


def http_state(base_url: str, token: str) -> ReadState:
    """Return a function that reads states from the gateway at `base_url`; the token must cover all tenants (`*`)."""

    headers = {"Authorization": f"Bearer {token}"}

    async def read(topic: str) -> Json:
        async with webhooks.client(TIMEOUT_S) as http:
            response = await http.get(f"{base_url.rstrip('/')}/v1/state/{topic}", headers=headers)
        answer: Json = orjson.loads(response.content) if response.status_code == 200 else None
        return answer.get("state") if isinstance(answer, dict) else None

    return read


async def _unconverged(env: str, written: Script, read_state: ReadState) -> list[str]:
    """Return the tenants whose state differs from the provider's after CONVERGE_S; one line each."""
    left = {(tenant, ""): it for tenant, it in written.expected.items()} | dict(written.others)
    shown: dict[str, Json] = {}
    deadline = time.monotonic() + CONVERGE_S
    while True:
        for tenant in {tenant for tenant, _ in left}:
            topic = f"tenant:{tenant}" if env == "live" else f"{env}/tenant:{tenant}"
            shown[tenant] = await read_state(topic)
        left = {(tenant, app): it for (tenant, app), it in left.items() if _seen(shown[tenant], app) != it}
        if not left or time.monotonic() >= deadline:
            break
        await asyncio.sleep(POLL_S)
    return [
        f"{f'{tenant} in {app}' if app else tenant} ends at {_text(_seen(shown[tenant], app))}, not at {_text(it)}"
        for (tenant, app), it in left.items()
    ]


def _seen(state: Json, app: str = "") -> Expected | None:
    """Return a state, or that of one of its applications, in the form of `Expected`; None if it is impossible."""
    if isinstance(state, dict) and app:
        state = _object(state.get("apps")).get(app)
    if not isinstance(state, dict):
        return None
    plan, scheduled, period = (_object(state.get(name)) for name in ("plan", "scheduled", "period"))
    action, ends_at = scheduled.get("action"), period.get("ends_at")
    try:
        ends_us = None if ends_at is None else parse_us(ends_at)
    except ValueError:
        return None
    return Expected(
        str(plan.get("key", "")), str(state.get("status")), None if action is None else str(action), ends_us
    )


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _text(it: Expected | None) -> str:
    if it is None:
        return "nothing"
    then = f", then {it.scheduled}" if it.scheduled else ""
    until = f", paid until {text_us(it.period_ends_us)}" if it.period_ends_us is not None else ""
    return f"{it.plan or 'no plan'} {it.status}{then}{until}"


class _Sender:
    """Sends deliveries and checks each answer."""

    def __init__(self, http: httpx2.AsyncClient, target: str, secret: str, report: Report) -> None:
        self._http, self._target, self._secret, self._report = http, target, secret, report

    async def send_all(self, sends: Sequence[Send], parallel: int) -> None:
        """Send in order, with at most `parallel` in flight; a retry keeps its place among them."""
        waiting = iter(sends)

        async def send_some() -> None:
            for send in waiting:
                await asyncio.sleep(send.pause_s)
                await self._deliver(send)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(parallel):
                tasks.create_task(send_some())

    async def _deliver(self, send: Send) -> None:
        """Send one delivery and check the answer; a genuine delivery is retried like a provider's."""
        about = f"{send.event_type} {send.event_id} of {send.tenant}"
        is_genuine = send.kind == "genuine"
        for attempt in range(RETRIES + 1):
            status, answer = await self._post(send)
            self._report.answers[answer] = self._report.answers.get(answer, 0) + 1
            if status is not None and status < 500 and not (is_genuine and status in (408, 429)):
                is_right = 200 <= status < 300 if is_genuine else status >= 400
                if not is_right:
                    self._report.violations.append(f"a {send.kind} {about} was answered {answer}")
                return
            if attempt < RETRIES:
                self._report.retries += 1
                await asyncio.sleep(min(RETRY_FIRST_S * 2.0**attempt, RETRY_MAX_S))
        self._report.violations.append(f"{about} was never taken: {answer}")

    async def _post(self, send: Send) -> tuple[int | None, str]:
        """Return the status (None without an answer), and the answer in words."""
        at_s = time.time_ns() // 1_000_000_000 + send.skew_s
        secret = FORGER if send.kind == "forged" else self._secret
        answer = await webhooks.post(self._http, self._target, send.body, (secret,), at_s)
        if answer.error is not None:
            return None, answer.error.partition(":")[0]
        return answer.status, f"{answer.status} {answer.outcome or ''}".strip()
