"""Torture for a webhook receiver: reads a scenario file, sends what its script says, checks where the receiver ends.

Works against any stack that takes Paddle's webhooks; all it needs is the URL and the signing secret. Given a way to
read a tenant's state, it also checks that the state becomes what the provider's is. The format of a file:

    title = "Reordered"
    tenants = 8                          how many
    env = "live"                         whose prices the bodies carry
    parallel = 4                         deliveries under way at once
    step_s = 60                          the longest time between two actions of the history
    history = [{ do = "upgrade", plan = "pro" }]
    actions = 10                         drawn for each tenant from the mix, after the history
    mix = { seats = 3, cancel = 1 }      action -> weight

    [faults]                             see `script.Faults`
    reorder = 0.5
"""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import httpx2
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sync.core.errors import SyncError
from sync.simulator.paddle.signature import HEADER, sign
from sync.simulator.scenarios import script
from sync.simulator.scenarios.script import Expected, Faults, Scenario, Script, Send
from sync.simulator.world import offers
from sync.simulator.world.actions import ACTIONS, ControlError
from sync.simulator.world.errors import Refusal
from sync.simulator.world.model import Json
from sync.simulator.world.moments import SECOND_US, rfc3339
from sync.simulator.world.moments import parse as parse_instant
from sync.simulator.world.offers import CatalogLike

TIMEOUT_S = 10.0
RETRIES = 10
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 3.0
CONVERGE_S = 15.0
"""How long after the last delivery the receiver may take to show the final state."""

POLL_S = 0.1

FORGER = "pdl_ntfset_of_somebody_else"
"""What forged deliveries are signed with."""

ReadState = Callable[[str], Awaitable[Json]]
"""Reads a tenant's public state by its topic, such as `tenant:acme` or `sandbox/tenant:acme`."""


class ScenarioError(SyncError):
    """The scenario cannot be used; `name` of the file and what is wrong, in one line."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


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


def bundled() -> tuple[str, ...]:
    """The names of the scenarios that come with the simulator."""
    files = resources.files("sync.simulator").joinpath("scenarios").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name: str) -> Scenario:
    """The scenario in a file, or the bundled one of that name.

    Raises:
        ScenarioError: there is none, or it cannot be used.
    """
    if name in bundled():
        text = resources.files("sync.simulator").joinpath("scenarios", f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = Path(name).read_text("utf-8")
        except OSError as error:
            known = ", ".join(bundled())
            raise ScenarioError(name, f"{error.strerror}; the bundled scenarios are: {known}") from error
        except UnicodeDecodeError as error:
            raise ScenarioError(name, "not UTF-8") from error
    return parse(text, name)


def parse(text: str, name: str = "scenario") -> Scenario:
    """The scenario that TOML `text` describes; `name` is what errors call it.

    Raises:
        ScenarioError: the first thing that is wrong.
    """
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(name, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScenarioError(name, f"{where}: {first['msg'].lower()}") from error
    for entry in file.history:
        if not isinstance(entry.get("do"), str):
            raise ScenarioError(name, 'history: each entry needs an action, as { do = "upgrade" }')
    unknown = sorted(({str(entry["do"]) for entry in file.history} | set(file.mix)) - set(ACTIONS))
    if unknown:
        raise ScenarioError(name, f"unknown action {unknown[0]}; the actions are: {', '.join(ACTIONS)}")
    if not file.history and not (file.mix and file.actions):
        raise ScenarioError(name, "nothing happens: give a history, or actions and a mix")
    faults = Faults(**file.faults.model_dump())
    if faults.outage_to < faults.outage_from:
        raise ScenarioError(name, "faults.outage_to must not be below outage_from")
    return Scenario(
        file.title, file.env, file.tenants, file.history, file.mix, file.actions, file.step_s, file.parallel, faults
    )


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
    except (ControlError, Refusal) as error:
        raise ScenarioError(scenario.title, str(error)) from error
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as http:
        sender = _Sender(http, target, secret)
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


class _Sender:
    """Sends deliveries and holds each answer against what it should be."""

    def __init__(self, http: httpx2.AsyncClient, target: str, secret: str) -> None:
        self._http = http
        self._target = target
        self._secret = secret
        self.answers: dict[str, int] = {}
        self.violations: list[str] = []
        self.retries = 0

    async def send_all(self, sends: Sequence[Send], parallel: int) -> None:
        """Send in order, with at most `parallel` under way; a retry keeps its place among these."""
        waiting = iter(sends)

        async def send_some() -> None:
            for send in waiting:
                await asyncio.sleep(send.pause_s)
                await self._deliver(send)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(parallel):
                tasks.create_task(send_some())

    async def _deliver(self, send: Send) -> None:
        """Send until it is answered as it should be; a genuine one is sent again, as a provider would."""
        for attempt in range(RETRIES + 1):
            status, answer = await self._post(send)
            self.answers[answer] = self.answers.get(answer, 0) + 1
            told = f"{send.event_type} {send.event_id} of {send.tenant}"
            if send.kind != "genuine":
                if status is not None and 400 <= status < 500:
                    return
                if status is not None and status < 500:
                    self.violations.append(f"a {send.kind} {told} was answered {answer}")
                    return
            elif status is not None and 200 <= status < 300:
                return
            elif status is not None and status < 500 and status not in (408, 429):
                self.violations.append(f"a genuine {told} was answered {answer}")
                return
            if attempt < RETRIES:
                self.retries += 1
                await asyncio.sleep(min(RETRY_FIRST_S * 2.0**attempt, RETRY_MAX_S))
        self.violations.append(f"{told} was never taken: {answer}")

    async def _post(self, send: Send) -> tuple[int | None, str]:
        """The status, None without one, and the answer in words."""
        at_s = time.time_ns() // (1000 * SECOND_US) + send.skew_s
        secret = FORGER if send.kind == "forged" else self._secret
        headers = {"Content-Type": "application/json", HEADER: sign(send.body, (secret,), at_s)}
        try:
            response = await self._http.post(self._target, content=send.body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return None, type(error).__name__
        return response.status_code, f"{response.status_code} {_word(response.content)}".strip()


def _word(content: bytes) -> str:
    try:
        body: Json = orjson.loads(content)
    except orjson.JSONDecodeError:
        return ""
    found = body.get("outcome", body.get("code", "")) if isinstance(body, dict) else ""
    return str(found)


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


class _Faults(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reorder: float = Field(0.0, ge=0, le=1)
    window: int = Field(10, ge=1, le=10_000)
    duplicate: float = Field(0.0, ge=0, le=1)
    drop: float = Field(0.0, ge=0, le=1)
    late: float = Field(0.0, ge=0, le=1)
    stale: float = Field(0.0, ge=0, le=1)
    forge: float = Field(0.0, ge=0, le=1)
    skew_s: int = Field(0, ge=0, le=86_400)
    ahead_s: int = Field(0, ge=-31_536_000, le=31_536_000)
    outage_from: float = Field(0.0, ge=0, le=1)
    outage_to: float = Field(0.0, ge=0, le=1)
    outage_s: float = Field(0.0, ge=0, le=600)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str
    env: str = "live"
    tenants: int = Field(5, ge=1, le=1_000)
    history: tuple[dict[str, Json], ...] = ()
    mix: dict[str, Annotated[int, Field(ge=1, le=1_000)]] = {}
    actions: int = Field(0, ge=0, le=1_000)
    step_s: int = Field(60, ge=1, le=86_400)
    parallel: int = Field(1, ge=1, le=64)
    faults: _Faults = _Faults.model_validate({})
