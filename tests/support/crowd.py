"""A thousand raw sockets on a gateway process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from planwire_client.http import NO_ANSWER
from tests.support import processes
from tests.support.system import TOPIC
from tests.support.wait import until
from tests.support.wire import TEXT, Wire, dial, encode, head

TABS = 1000


SUBJECTS = 50


TOKENS: list[str] = []


@asynccontextmanager
async def serving(
    environ: dict[str, str], data_dir: Path
) -> AsyncIterator[tuple[processes.Running, httpx2.AsyncClient]]:
    """A gateway process that answers; it is killed at the end."""
    kept = {name: value for name, value in environ.items() if name != "PLANWIRE_DATA_DIR"}
    with processes.running(
        processes.python("-m", "gateway.server"), processes.clean_environ(data_dir, **kept)
    ) as server:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{environ['PORT']}", timeout=30) as http:

            async def is_ready() -> bool:
                assert server.status() is None, server.text
                try:
                    return (await http.get("/readyz")).status_code == 200
                except NO_ANSWER:
                    return False

            await until(is_ready, 40, every_s=0.05)
            yield server, http


async def connect(stack: AsyncExitStack, port: int, number: int, held: int) -> tuple[Wire, dict[str, Any]]:
    """A tab that has said hello, and the first that it was told of the topic."""
    wire = await stack.enter_async_context(dial(port))
    hello = {"type": "hello", "token": TOKENS[number % SUBJECTS], "topics": {TOPIC: held}}
    await wire.send(head())
    assert (await wire.answer(60)).status == 101
    await wire.send(encode(TEXT, json.dumps(hello).encode()))
    while True:
        frame = json.loads((await wire.until(TEXT, 60)).payload)
        if frame["type"] == "welcome":
            assert frame["reconnect"]["max_ms"] >= 5 * TABS, "who comes back is told over what time to spread"
        elif frame.get("topic") == TOPIC and "version" in frame:
            return wire, frame
