"""Follows one topic for `planwire watch`, over a connection of `planwire_client`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from gateway.errors import GatewayError
from planwire_client.errors import ReplicaClosed
from planwire_client.replica.connection import Connection, ConnectionEnded
from planwire_client.replica.snapshot import Snapshot
from planwire_client.replica.tokens import Token, TokenSource


class WatchEnded(GatewayError):
    """The gateway ended the watch for good; the text says why in one line."""


async def watch(
    base_url: str,
    topic: str,
    token: Token,
    show: Callable[[dict[str, Any]], None],
    note: Callable[[str], None],
    count: int | None = None,
) -> None:
    """Show each new snapshot of `topic` - topic, version, state, cause - until `count` were, or for ever.

    Args:
        token: a token, or a function that returns a new one.
        note: told of lost connections and of whether the gateway can vouch for being current.

    Raises:
        WatchEnded: the gateway ended it for good, at first or later.
        OSError: nothing answered the first time; later it is tried again, with growing jittered pauses.
    """
    # What the connection logs is in the errors and notes already.
    logging.getLogger("planwire_client").addHandler(logging.NullHandler())
    watching = _Watching(topic, show, note, count)
    connection = Connection(base_url, TokenSource(token), watching.changed, watching.looked, lost=watching.lost)
    watching.follow(connection)
    task = asyncio.create_task(connection.run())
    try:
        await asyncio.wait({task, watching.done}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    if watching.done.done():
        watching.done.result()
    elif isinstance(connection.closed, ReplicaClosed):
        raise WatchEnded(f"closed for good: {connection.closed.code} {connection.closed.reason}".rstrip())


class _Watching:
    """What the connection calls. `done`: has the result once `count` snapshots were shown, or the error."""

    def __init__(
        self, topic: str, show: Callable[[dict[str, Any]], None], note: Callable[[str], None], count: int | None
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._topic = topic
        self._show = show
        self._note = note
        self._left = count
        self._is_fresh: bool | None = None

    def follow(self, connection: Connection) -> None:
        self._connection = connection
        self._state = connection.add(self._topic)

    def changed(self, snapshot: Snapshot, before: Snapshot | None) -> None:
        if self.done.done():
            return
        shown = {"topic": self._topic, "version": snapshot.version, "state": snapshot.state}
        try:
            self._show({**shown, "cause": snapshot.cause} if snapshot.cause else shown)
        except OSError as error:
            self._end(error)
            return
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self.done.set_result(None)

    def looked(self) -> None:
        if reason := self._state.refused:
            is_forbidden = reason == "forbidden"
            why = "forbidden: the token does not open this topic" if is_forbidden else f"is gone: {reason}"
            self._end(WatchEnded(why if is_forbidden else f"{self._topic} {why}"))
        if self._connection.cause:
            return  # a lost connection is told of in `lost`
        is_fresh = time.monotonic() < self._connection.freshness.until
        if self._is_fresh is not None and is_fresh != self._is_fresh:
            self._note("fresh again" if is_fresh else "stale: the gateway cannot vouch for being current")
        self._is_fresh = is_fresh

    def lost(self, ended: ConnectionEnded, pause_s: float) -> None:
        if self._is_fresh is not None:
            self._note(f"connection lost ({ended}); trying again in {pause_s:.1f} s")
        elif isinstance(ended.error, OSError):
            self._end(ended.error)
        else:
            self._end(WatchEnded(f"the gateway refused the connection: {ended}"))

    def _end(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
