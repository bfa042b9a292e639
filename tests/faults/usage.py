"""Processes that use up a tenant's limit together while faults go on, and the account of what was counted for them.

Each call has a key and is repeated until it is answered, so at rest the store's count is the account: a unit that was
counted twice, or that was answered and is not counted, is a violation. So is a count beyond the limit, at any time.
One doubt remains: an unanswered attempt of a call that was then denied is counted once units are free.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import httpx2

from planwire_client.http import NO_ANSWER
from sync.store.command_pipeline import run_commands
from tests.support.gateway import PUBLISH_KEY

if TYPE_CHECKING:
    from tests.faults.rig import Rig

LIMIT, RELEASED = 40, 15
"""Of both plans of the rig's catalog; and what is given back when it is reached."""

PACE_S = 0.03
ANSWER_S = 1.5
KEPT = 200
"""The newest answered calls, whose keys are searched in the store's file after a kill."""

CATALOG = """
[meters.calls]
kind = "consumable"
reset = "never"
"""


class Account:
    """What was counted of one tenant's meter, by the answers."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.used = 0
        self.doubtful = 0
        self.answered: deque[tuple[float, str]] = deque(maxlen=KEPT)
        self.violations: list[str] = []
        self.losses = 0

    async def settle(self, rig: Rig) -> None:
        """Compare the account with the store's count, at rest. After a loss the store's count is taken over."""
        (stored,) = await run_commands(rig.store, ("HGET", rig.store.keys.usage(self.topic, "meters"), "calls:count"))
        used = 0 if stored is None else int(stored.split()[0])
        if not self.used <= used <= self.used + self.doubtful and rig.losses == self.losses:
            answered = f"{self.used} were answered, and {self.doubtful} denied after an attempt without an answer"
            self.violations.append(f"{self.tenant} has used {used}; {answered}")
        self.used, self.doubtful, self.losses = used, 0, rig.losses

    @property
    def topic(self) -> str:
        """The tenant's topic."""
        return f"tenant:{self.tenant}"


class Spender:
    """Consumes one unit after the other, and gives some back when it is denied."""

    def __init__(self, account: Account, name: str, rig: Rig) -> None:
        self._account = account
        self._name = name
        self._rig = rig
        self._chance = random.Random(f"{rig.seed}/{name}")
        self._calls = 0
        self.idle = asyncio.Event()

    async def run(self) -> None:
        """Count while the rig publishes, until cancelled."""
        headers = {"Authorization": f"Bearer {PUBLISH_KEY}"}
        async with httpx2.AsyncClient(timeout=ANSWER_S, trust_env=False, headers=headers) as client:
            while True:
                while not self._rig.publishing.is_set():
                    self.idle.set()
                    await self._rig.publishing.wait()
                self.idle.clear()
                if await self._call(client, "consume", 1):
                    self._account.used += 1
                elif await self._call(client, "release", RELEASED):
                    self._account.used = max(0, self._account.used - RELEASED)
                await asyncio.sleep(PACE_S * self._chance.uniform(0.5, 1.5))

    async def _call(self, client: httpx2.AsyncClient, operation: str, amount: int) -> bool:
        self._calls += 1
        key = f"{self._name}-{self._calls}-{operation}"
        is_repeated = False
        while True:
            gateway = self._chance.choice(self._rig.gateways)
            url = f"http://127.0.0.1:{gateway.front.port}/v1/tenants/{self._account.tenant}/usage/calls/{operation}"
            with contextlib.suppress(httpx2.HTTPError, *NO_ANSWER):
                answer = await client.post(url, json={"amount": amount, "key": key})
                if answer.status_code == 200:
                    return self._counted(key, answer.json(), is_repeated)
                if answer.status_code not in (429, 503):
                    raise AssertionError(f"{key}: {answer.status_code} {answer.text}")
            is_repeated = True
            await asyncio.sleep(0.05)

    def _counted(self, key: str, told: dict[str, Any], is_repeated: bool) -> bool:
        if told["used"] > LIMIT:
            self._account.violations.append(f"{key} was answered with {told['used']} of {LIMIT} used")
        if told["allowed"]:
            self._account.answered.append((time.monotonic(), key))
        else:
            self._account.doubtful += is_repeated
        return bool(told["allowed"])
