"""All open sockets of the process, and what is due for them: one tick for all, no timer or task per socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from gateway.hub.fanout import in_chunks
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.ws import drain, frames, protocol
from gateway.ws.admission import Admission
from gateway.ws.deadlines import Deadlines
from gateway.ws.expects import Expects
from gateway.ws.handshake import Headers
from gateway.ws.heartbeats import Heartbeats
from planwire_client.core.frames import CloseCode
from sync.process import logs

if TYPE_CHECKING:
    from gateway.ws.session_socket import SessionSocket

TICK_S = 0.25

CLOCK_STEP_S = 1.0
"""Change of the wall clock against the monotonic clock, between two ticks, after which the deadlines of tokens are
computed again. A token's expiry is in wall time, and deadlines are in monotonic time."""

CLOSE_TIMEOUT_S = 2.0
"""Time that a peer has to answer a close frame."""

RECONNECT_LEAST_MS = 5_000
"""Upper bound of a browser's back-off where there is no crowd to be spread."""

LOGGER = "gateway.socket"

log = structlog.get_logger(LOGGER)


class ConnectionRegistry:
    """The sockets of one process.

    Attributes:
        sockets: those whose handshake is done.
        draining: the process is stopping.
        expects: their pending expects.
    """

    def __init__(
        self, settings: GatewaySettings, hub: Hub, metrics: Metrics, want_reconcile: Callable[[str], None]
    ) -> None:
        self.sockets: set[SessionSocket] = set()
        self.draining = False
        self.expects = Expects(hub, metrics, want_reconcile, TICK_S)
        self._settings = settings
        self._hub = hub
        self._metrics = metrics
        self._admission = Admission(settings, metrics)
        self._heartbeats = Heartbeats(hub, self.sockets, round(settings.heartbeat_s / TICK_S))
        self._deadlines: Deadlines[SessionSocket] = Deadlines(TICK_S)
        self._stalled: set[SessionSocket] = set()
        self._wall_offset_s = _wall_offset_s()

    # A socket's life, in order.

    def admit(self, headers: Headers, peer: str) -> str:
        """Return the client's address if it may open a socket.

        Raises:
            HandshakeRejected: the origin is not allowed, or a limit is reached.
        """
        return self._admission.admit(headers, peer, open_sockets=len(self.sockets), is_draining=self.draining)

    def opened(self, socket: SessionSocket) -> None:
        """Count a socket whose handshake is done, and limit the time until its hello."""
        self.sockets.add(socket)
        self._admission.opened(socket.peer)
        self._metrics.sockets = len(self.sockets)
        socket.schedule(self._deadlines, time.monotonic() + self._settings.hello_timeout_s)

    def greeted(self, socket: SessionSocket) -> bool:
        """Take an accepted hello into account: expiry, heartbeats, the limit per subject.

        Returns:
            False if the subject has as many sockets as it may: this one is closing.
        """
        session = socket.session
        assert session.claims is not None
        sub = session.claims.sub
        if not self._admission.greet(sub):
            session.reject()  # as if it had sent no hello: it is not counted, and neither is its close
            socket.close(CloseCode.LIMIT, "too many sockets of this subject")
            return False
        self._metrics.opened += 1
        self.renewed(socket)
        self._heartbeats.add(socket)
        logs.info(LOGGER, "connect", session=session.id, sub=sub, peer=socket.peer, client=session.client)
        return True

    def renewed(self, socket: SessionSocket) -> None:
        """Close the socket when the token now in force ends."""
        assert socket.session.claims is not None
        socket.schedule(self._deadlines, socket.session.claims.ends_at - _wall_offset_s())

    def stalled(self, socket: SessionSocket) -> None:
        """Limit the time in which a socket that does not drain makes no progress."""
        self._stalled.add(socket)

    def drained(self, socket: SessionSocket) -> None:
        """Lift that limit, and send the change of freshness that the socket has missed, if any."""
        self._stalled.discard(socket)
        self._heartbeats.catch_up(socket)

    def closing(self, socket: SessionSocket) -> None:
        """Limit the time that the peer has to answer the close."""
        socket.schedule(self._deadlines, time.monotonic() + CLOSE_TIMEOUT_S)

    def lost(self, socket: SessionSocket) -> None:
        """Forget a socket that has ended."""
        claims = socket.session.claims
        self.sockets.discard(socket)
        socket.unschedule(self._deadlines)
        self._stalled.discard(socket)
        self.expects.drop(socket)
        self._heartbeats.discard(socket)
        self._admission.closed(socket.peer, None if claims is None else claims.sub)
        self._metrics.sockets = len(self.sockets)
        self._metrics.socket_closed(socket.close_code)
        if claims is not None:
            logs.info(
                LOGGER,
                "close",
                session=socket.session.id,
                sub=claims.sub,
                code=socket.close_code,
                seconds=round(max(0.0, time.time() - socket.opened_at), 3),
            )

    def reconnect_ms(self) -> tuple[int, int]:
        """Return the bounds of a browser's back-off: a millisecond for each socket here, so that they come back spread.

        A thousand a second is a fifth of what a process can take. A few browsers have no reason to wait for long.
        """
        least, most = self._settings.reconnect_min_ms, self._settings.reconnect_max_ms
        return least, max(least, min(most, max(RECONNECT_LEAST_MS, len(self.sockets))))

    # Time passes.

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Do everything that is due at `now` (monotonic seconds)."""
        self._look_at_clock()
        in_chunks(self._deadlines.due(now), self._due)  # tokens that were made together end together
        self.expects.tick(now)
        for socket in list(self._stalled):
            if socket.stalled_s(now) > self._settings.send_timeout_s:
                self._stalled.discard(socket)
                socket.close(CloseCode.NO_PROGRESS, "no progress")
                # The close frame waits behind what is stuck.
                socket.abort(CloseCode.NO_PROGRESS)
        self._heartbeats.tick()
        self._hub.expire_idle()

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
        if socket not in self.sockets:  # it has ended meanwhile
            return
        claims = socket.session.claims
        if socket.is_closing:
            socket.abort()
        elif claims is None:
            socket.close(CloseCode.NO_HELLO, "no hello in time")
        elif claims.is_expired(time.time()):
            socket.write(frames.text(protocol.error("token_expired", "the token has expired"), False))
            socket.close(CloseCode.TOKEN, "token_expired")
        else:
            self.renewed(socket)

    def announce_freshness(self) -> None:
        """Send every socket at once whether the bus is proved to deliver."""
        self._metrics.fresh = self._hub.fresh
        self._heartbeats.announce_freshness()

    async def drain(self, over_s: float) -> None:
        """Close all sockets evenly over `over_s` seconds, and admit no more."""
        self.draining = self._metrics.draining = True
        await drain.close_all(self.sockets, self._metrics, over_s)


def _wall_offset_s() -> float:
    """Return the difference between the wall clock and the monotonic clock."""
    return time.time() - time.monotonic()
