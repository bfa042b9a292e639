"""A backend that receives outgoing webhooks: it verifies each, keeps it, and answers what it is told to."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.asgi import serving

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"n" * 32).decode()


class Receiver:
    """What was received.

    Attributes:
        status: of the answers.
        answers: what answers wait for; set at first. A request that waits is counted already.
        messages: the bodies that were answered 2xx, in order; `ids` their ids; `attempts` the number of all requests.
    """

    def __init__(self, *secrets: str) -> None:
        self.secrets = secrets or (SECRET,)
        self.status = 204
        self.answers = asyncio.Event()
        self.answers.set()
        self.messages: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.attempts = 0
        self.url = ""

    def setting(self, name: str = "app", *secrets: str) -> str:
        """The receiver as an endpoint of the setting."""
        return " ".join((name, self.url, *(secrets or (SECRET,))))

    def data(self, kind: str = "entitlements.changed") -> list[dict[str, Any]]:
        """What the received messages of a type say."""
        return [message["data"] for message in self.messages if message["type"] == kind]

    async def receive(self, request: Request) -> Response:
        """Answer one message."""
        body = await request.body()
        self.attempts += 1
        assert self._is_signed(body, request.headers)
        await self.answers.wait()
        if 200 <= self.status < 300:
            self.messages.append(orjson.loads(body))
            self.ids.append(request.headers["webhook-id"])
        return Response(status_code=self.status)

    def _is_signed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        at = headers["webhook-timestamp"]
        signed = f"{headers['webhook-id']}.{at}.".encode() + body
        macs = [hmac.digest(base64.b64decode(one.removeprefix("whsec_")), signed, "sha256") for one in self.secrets]
        sent = headers["webhook-signature"].split(" ")
        return abs(time.time() - int(at)) < 300 and any(f"v1,{base64.b64encode(mac).decode()}" in sent for mac in macs)


@asynccontextmanager
async def receiving(*secrets: str) -> AsyncIterator[Receiver]:
    """Yield a receiver that listens; it knows `secrets`, or SECRET."""
    receiver = Receiver(*secrets)
    async with serving(Starlette(routes=[Route("/hooks", receiver.receive, methods=["POST"])])) as url:
        receiver.url = f"{url}/hooks"
        yield receiver
