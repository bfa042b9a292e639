"""`planwire watch`: follows one topic over a connection of `planwire_client`, and prints each version."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from gateway.cli.common import Failed
from gateway.cli.output import note, say, say_json
from planwire_client.core import canonical_json
from planwire_client.errors import ReplicaClosed
from planwire_client.replica.connection import Connection, ConnectionEnded
from planwire_client.replica.snapshot import Snapshot
from planwire_client.replica.tokens import Token, TokenSource
from sync.core import instants


async def watch(base_url: str, topic: str, token: Token, count: int | None, as_json: bool) -> None:
    """Print each new version of `topic`; return after `count` versions, or never if `count` is None.

    A lost connection is retried with jittered backoff.

    Raises:
        Failed: the gateway refuses the connection or the topic, or closes the connection for good.
        OSError: the first attempt to connect got no answer.
    """
    # Drop the connection's log lines: errors and notes report the same.
    logging.getLogger("planwire_client").addHandler(logging.NullHandler())
    await _Watch(base_url, topic, token, count, as_json).run()


class _Watch:
    """One run of the command: the callbacks of its connection, and its end."""

    def __init__(self, base_url: str, topic: str, token: Token, count: int | None, as_json: bool) -> None:
        self._topic = topic
        self._left = count
        self._as_json = as_json
        self._is_fresh: bool | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection = Connection(base_url, TokenSource(token), self._changed, self._looked, lost=self._lost)
        self._state = self._connection.add(topic)

    async def run(self) -> None:
        task = asyncio.create_task(self._connection.run())
        try:
            await asyncio.wait({task, self._done}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        closed = self._connection.closed
        if self._done.done():
            self._done.result()
        elif isinstance(closed, ReplicaClosed):
            raise Failed(f"closed for good: {closed.code} {closed.reason}".rstrip())

    def _changed(self, snapshot: Snapshot, _: Snapshot | None) -> None:
        if self._done.done():
            return
        try:
            show(snapshot, self._as_json)
        except OSError as error:
            self._end(error)
            return
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._done.set_result(None)

    def _looked(self) -> None:
        if self._state.refused == "forbidden":
            self._end(Failed("forbidden: the token does not open this topic"))
        elif self._state.refused:
            self._end(Failed(f"{self._topic} is gone: {self._state.refused}"))
        if self._connection.cause:
            return  # `_lost` reports a lost connection
        is_fresh = time.monotonic() < self._connection.freshness.until
        if self._is_fresh is not None and is_fresh != self._is_fresh:
            note("fresh again" if is_fresh else "stale: the gateway cannot vouch for being current")
        self._is_fresh = is_fresh

    def _lost(self, ended: ConnectionEnded, pause_s: float) -> None:
        if self._is_fresh is not None:
            note(f"connection lost ({ended}); trying again in {pause_s:.1f} s")
        elif isinstance(ended.error, OSError):
            self._end(ended.error)
        else:
            self._end(Failed(f"the gateway refused the connection: {ended}"))

    def _end(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


def show(snapshot: Snapshot, as_json: bool) -> None:
    """Print a version: time, number and state; as JSON an object with topic, version, state and cause."""
    if as_json:
        shown = {"topic": snapshot.topic, "version": snapshot.version, "state": snapshot.state}
        say_json({**shown, "cause": snapshot.cause} if snapshot.cause else shown)
        return
    state = canonical_json.encode(snapshot.state).decode()
    at = instants.text_us(snapshot.version) if snapshot.version else "-"
    say(f"{at:27} {snapshot.version} {state}")
