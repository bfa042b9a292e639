"""Sends a script's deliveries, and compares each answer with what a correct receiver answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx2
import orjson

from sync.simulator.paddle.signature import HEADER, sign
from sync.simulator.scenarios.script import Send
from sync.simulator.world.model import Json
from sync.simulator.world.moments import SECOND_US

RETRIES = 10
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 3.0

FORGER = "pdl_ntfset_of_somebody_else"
"""What forged deliveries are signed with."""


class Sender:
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
