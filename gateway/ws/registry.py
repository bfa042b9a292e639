"""All open sockets of the process and their deadlines. One tick serves all; there is no timer or task per socket."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

import structlog

from gateway.auth.tokens import Auth
from gateway.hub.fanout import in_chunks
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.ws import protocol
from gateway.ws.admission import Admission
from gateway.ws.deadlines import Deadlines
from gateway.ws.expects import Expects
from gateway.ws.heartbeats import Heartbeats
from gateway.ws.session import Session, SessionConfig
from planwire_client.core.frames import CloseCode
from sync.process import logs

if TYPE_CHECKING:
    from gateway.hub.subscription import Subscription
    from gateway.ws.session_socket import SessionSocket

TICK_S = 0.25

CLOCK_STEP_S = 1.0
"""If the wall clock moves against the monotonic clock by more seconds between two ticks, the deadlines of tokens are
computed again. A token's expiry is in wall time, and deadlines are in monotonic time."""

CLOSE_TIMEOUT_S = 2.0
"""Seconds that a peer has to answer a close frame."""

RECONNECT_LEAST_MS = 5_000
"""Minimum of the upper bound of a browser's backoff, in milliseconds; more sockets raise the bound."""

STREAMS_POLL_S = 0.05
"""Seconds between checks whether the last event stream has ended."""

LOGGER = "gateway.socket"

log = structlog.get_logger(LOGGER)


class ConnectionRegistry:
    """The sockets of one process, and the objects that they share.

    Attributes:
        sockets: the sockets whose handshake is done.
        expects: their pending expects.
        admission: decides who may open a socket.
        settings, hub, metrics: those of the process.
    """

    def __init__(self, settings: GatewaySettings, auth: Auth, hub: Hub, metrics: Metrics, gateway: str) -> None:
        """Start without sockets. `gateway`: the process's name; session ids contain it."""
        self.sockets: set[SessionSocket] = set()
        self.settings = settings
        self.hub = hub
        self.metrics = metrics
        self.expects = Expects(hub, metrics, TICK_S)
        self.admission = Admission(settings, metrics)
        self._session_ids = (f"s_{gateway}_{number:x}" for number in itertools.count(1))
        self._session_config = SessionConfig(
            verify=auth.verify,
            topics_max=settings.topics_per_socket,
            frames_per_s=settings.frames_per_s,
            heartbeat_ms=round(settings.heartbeat_s * 1000),
            states_burst_bytes=settings.topics_per_socket * settings.state_max_bytes,
            reconnect_ms=self.reconnect_ms,
            ack_rule=hub.acks.rule,
            is_revoked=auth.revocations.is_revoked,
        )
        self._heartbeats = Heartbeats(hub, self.sockets, round(settings.heartbeat_s / TICK_S))
        self._deadlines: Deadlines[SessionSocket] = Deadlines(TICK_S)
        # For each socket that does not drain: the time of its last progress (monotonic), and the bytes buffered then.
        self._stalled: dict[SessionSocket, tuple[float, int]] = {}
        self._wall_offset_s = _wall_offset_s()

    # The life of a socket, in order.

    def open_session(self, socket: SessionSocket) -> Session[Subscription]:
        """Return the session of a socket whose handshake is done. Its deadline for the hello starts now."""
        self.sockets.add(socket)
        self.admission.opened(socket.peer)
        self.metrics.sockets = len(self.sockets)
        socket.schedule(self._deadlines, time.monotonic() + self.settings.hello_timeout_s)
        # The id is unique across gateways. It only names the session and grants nothing.
        return Session(next(self._session_ids), self._session_config)

    def greeted(self, socket: SessionSocket) -> bool:
        """Register an accepted hello: token expiry, heartbeats, the limit per subject.

        Returns:
            False if the subject has reached its limit of sockets; this one is closing.
        """
        session = socket.session
        assert session.claims is not None
        sub = session.claims.sub
        if not self.admission.greet(sub):
            session.reject()  # it was not counted, so its close must not be counted either
            socket.close(CloseCode.LIMIT, "too many sockets of this subject")
            return False
        self.metrics.opened += 1
        self.renewed(socket)
        self._heartbeats.group(socket).add(socket)
        logs.info(LOGGER, "connect", session=session.id, sub=sub, peer=socket.peer, client=session.client)
        return True

    def renewed(self, socket: SessionSocket) -> None:
        """Set the socket's deadline to the expiry of its new token."""
        assert socket.session.claims is not None
        socket.schedule(self._deadlines, socket.session.claims.ends_at - _wall_offset_s())

    def stalled(self, socket: SessionSocket) -> None:
        """Start the time limit for a socket that does not drain."""
        self._stalled[socket] = time.monotonic(), socket.buffered_bytes()

    def drained(self, socket: SessionSocket) -> None:
        """End that limit, and send the current freshness if the socket missed a change."""
        since, _ = self._stalled.pop(socket, (0.0, 0))
        self._heartbeats.catch_up(socket, since)

    def closing(self, socket: SessionSocket) -> None:
        """Start the time limit for the peer's answer to the close."""
        socket.schedule(self._deadlines, time.monotonic() + CLOSE_TIMEOUT_S)

    def lost(self, socket: SessionSocket) -> None:
        """Remove an ended socket."""
        claims = socket.session.claims
        self.sockets.discard(socket)
        socket.schedule(self._deadlines, None)
        self._stalled.pop(socket, None)
        self.expects.drop(socket)
        self._heartbeats.group(socket).discard(socket)
        self.admission.closed(socket.peer, None if claims is None else claims.sub)
        self.metrics.sockets = len(self.sockets)
        self.metrics.socket_closed(socket.close_code)
        if claims is not None:
            code, seconds = socket.close_code, round(max(0.0, time.time() - socket.opened_at), 3)
            logs.info(LOGGER, "close", session=socket.session.id, sub=claims.sub, code=code, seconds=seconds)

    def reconnect_ms(self) -> tuple[int, int]:
        """Return the bounds of a browser's backoff: one millisecond per socket here, which spreads the reconnects.

        That is 1000 reconnects per second, a fifth of what a process can take. With few sockets the wait stays short.
        """
        least, most = self.settings.reconnect_min_ms, self.settings.reconnect_max_ms
        return least, max(least, min(most, max(RECONNECT_LEAST_MS, len(self.sockets))))

    # Ticks.

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Handle everything that is due at `now` (monotonic seconds)."""
        self._look_at_clock()
        in_chunks(self._deadlines.due(now), self._due)  # many tokens may expire at once
        self.expects.tick(now)
        for socket, (progress_at, waiting) in list(self._stalled.items()):
            if socket.buffered_bytes() < waiting:
                self._stalled[socket] = now, socket.buffered_bytes()
            elif now - progress_at > self.settings.send_timeout_s:
                del self._stalled[socket]
                socket.close(CloseCode.NO_PROGRESS, "no progress")
                # A close frame would wait behind the stuck data.
                socket.abort(CloseCode.NO_PROGRESS)
        self._heartbeats.tick()
        self.hub.expire_idle()

    def _look_at_clock(self) -> None:
        """Compute the deadlines of all tokens again if the wall clock was set."""
        offset_s = _wall_offset_s()
        if abs(offset_s - self._wall_offset_s) > CLOCK_STEP_S:
            log.warning("clock_set", by_s=round(offset_s - self._wall_offset_s, 3))
            in_chunks(list(self.sockets), self._reschedule)
        self._wall_offset_s = offset_s

    def _reschedule(self, socket: SessionSocket) -> None:
        if socket in self.sockets and not socket.is_closing and socket.session.claims is not None:
            self.renewed(socket)

    def _due(self, socket: SessionSocket) -> None:
        if socket not in self.sockets:  # it ended meanwhile
            return
        claims = socket.session.claims
        if socket.is_closing:
            socket.abort()
        elif claims is None:
            socket.close(CloseCode.NO_HELLO, "no hello in time")
        elif claims.is_expired(time.time()):
            socket.write_text(protocol.error("token_expired", "the token has expired"))
            socket.close(CloseCode.TOKEN, "token_expired")
        else:
            self.renewed(socket)

    def announce_freshness(self) -> None:
        """Send every socket the current freshness immediately."""
        self.metrics.fresh = self.hub.fresh
        self._heartbeats.announce_freshness()

    async def drain(self, over_s: float) -> None:
        """Stop admitting sockets, and end all sockets and event streams evenly over `over_s` seconds.

        A browser reconnects within a second of its close, so spread closes lead to spread reconnects.
        """
        self.metrics.draining = True
        started = time.monotonic()
        back_ms = round(min(1.0, over_s / 10) * 1000)
        closing_s = over_s - back_ms / 1000
        for index, socket in enumerate(leaving := list(self.sockets)):
            wait_s = started + closing_s * index / len(leaving) - time.monotonic()
            if wait_s > 0.005:
                await asyncio.sleep(wait_s)
            if socket in self.sockets:
                self.metrics.drained += 1
                socket.write_text(protocol.bye(back_ms))
                socket.close(CloseCode.GOING_AWAY, "going away")
        # Event streams are not sockets. They detect the drain themselves and end within it, each at its own time.
        while self.metrics.streams and time.monotonic() < started + over_s:  # noqa: ASYNC110 - once in a life
            await asyncio.sleep(STREAMS_POLL_S)


def _wall_offset_s() -> float:
    """Return the difference between the wall clock and the monotonic clock."""
    return time.time() - time.monotonic()
