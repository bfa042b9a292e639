"""A terminal's view of one topic: a small planwire.v1 browser that applies, prints, acks and reconnects.

Synchronous, one topic, no local state beyond the newest version. Programs use `planwire_client` instead.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import orjson
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway.errors import GatewayError
from planwire_client.core import merge_patch
from planwire_client.core.frames import SUBPROTOCOL, CloseCode

CLIENT = "planwire-cli"
OPEN_TIMEOUT_S = 10.0
MISSED_HEARTBEATS = 2.5
"""Silence for this many heartbeats means that the connection is dead."""

BACKOFF_MIN_S = 0.25
BACKOFF_MAX_S = 15.0
FINAL_FROM = 4500
"""Close codes from here on say: do not come back."""

STATE_MAX_BYTES = 4_194_304


class Refused(GatewayError):
    """The gateway will not let us watch; the text says why in one line."""


class _Finished(Exception):
    """The wanted number of snapshots was shown."""


def watch(
    base_url: str,
    topic: str,
    token: Callable[[], str],
    show: Callable[[dict[str, Any]], None],
    note: Callable[[str], None],
    count: int | None = None,
) -> None:
    """Show each new snapshot of `topic` - topic, version, state, cause - until `count` were, or for ever.

    Raises:
        Refused: the gateway refused for good, at first or later.
        OSError: nothing answered the first time; later it is tried again, with growing jittered pauses.
    """
    view = _View(topic, show, note, count)
    url = "ws" + base_url.removeprefix("http") + "/v1/connect"
    was_open, attempt = False, 0
    while True:
        opened_at = time.monotonic()
        try:
            with connect(
                url, subprotocols=[Subprotocol(SUBPROTOCOL)], open_timeout=OPEN_TIMEOUT_S, max_size=STATE_MAX_BYTES
            ) as socket:
                was_open = True
                view.follow(socket, token())
        except _Finished:
            return
        except ConnectionClosed as error:
            reason = _closed(error)
        except InvalidURI as error:
            raise Refused(str(error)) from error
        except (InvalidHandshake, TimeoutError) as error:
            if not was_open:
                raise Refused(f"{url} refused the connection: {error}") from error
            reason = str(error) or "no answer"
        except OSError as error:
            if not was_open:
                raise
            reason = str(error) or type(error).__name__
        attempt = 0 if time.monotonic() - opened_at > BACKOFF_MAX_S else attempt + 1
        pause_s = random.uniform(BACKOFF_MIN_S, min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(attempt, 10)))  # noqa: S311
        note(f"connection lost ({reason}); trying again in {pause_s:.1f} s")
        time.sleep(pause_s)


def _closed(error: ConnectionClosed) -> str:
    """Return why the connection ended, where coming back makes sense."""
    received = error.rcvd
    code, reason = (received.code, received.reason) if received is not None else (1006, "")
    if FINAL_FROM <= code < 5000 or code == CloseCode.TOKEN:
        raise Refused(f"closed for good: {code} {reason}".rstrip()) from error
    return f"{code} {reason}".rstrip()


class _View:
    """What is known of the topic: the newest version and state."""

    def __init__(
        self, topic: str, show: Callable[[dict[str, Any]], None], note: Callable[[str], None], count: int | None
    ) -> None:
        self._topic = topic
        self._show = show
        self._note = note
        self._left = count
        self._version = 0
        self._state: object = None
        self._shown = False
        self._fresh: bool | None = None

    def follow(self, socket: ClientConnection, token: str) -> None:
        """Say hello and take frames until the connection ends or stays silent for too long."""
        hello = {"type": "hello", "token": token, "topics": {self._topic: self._version}, "client": CLIENT}
        socket.send(orjson.dumps(hello).decode())
        silence_s = OPEN_TIMEOUT_S
        while True:
            frame = orjson.loads(socket.recv(timeout=silence_s))
            match frame.get("type"):
                case "welcome":
                    silence_s = MISSED_HEARTBEATS * frame["heartbeat_ms"] / 1000
                    self._freshness(frame["fresh"])
                case "heartbeat":
                    self._freshness(frame["fresh"])
                case "snapshot" if not self._shown or frame["version"] > self._version or frame.get("reset"):
                    self._take(socket, frame, frame["state"])
                case "patch" if frame["base"] == self._version:
                    self._take(socket, frame, merge_patch.apply(self._state, frame["patch"]))
                case "gone" | "error":
                    self._refuse(frame)
                case "bye":
                    self._note("the gateway is going away")

    def _take(self, socket: ClientConnection, frame: dict[str, Any], state: object) -> None:
        self._version, self._state, self._shown = frame["version"], state, True
        snapshot = {"topic": self._topic, "version": self._version, "state": state}
        self._show({**snapshot, "cause": frame["cause"]} if "cause" in frame else snapshot)
        socket.send(orjson.dumps({"type": "ack", "topic": self._topic, "version": self._version}).decode())
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise _Finished

    def _freshness(self, is_fresh: bool) -> None:
        if self._fresh is not None and is_fresh != self._fresh:
            self._note("fresh again" if is_fresh else "stale: the gateway cannot vouch for being current")
        self._fresh = is_fresh

    def _refuse(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "gone":
            raise Refused(f"{self._topic} is gone: {frame.get('reason')}")
        raise Refused(f"{frame.get('code')}: {frame.get('message')}")
