"""Every open socket of the process and what time does to it: deadlines, heartbeats, stalls, expects, the drain.

One tick for all of them; no socket has a timer or a task of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gateway.auth import origins
from gateway.auth.addresses import TrustedProxies, group
from gateway.hub.ack_policy import is_outdated
from gateway.hub.fanout import in_chunks
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.ws import frames, protocol
from gateway.ws.connection import Refused
from gateway.ws.deadlines import Deadlines
from planwire_client.core.frames import CloseCode
from sync.process import logs

if TYPE_CHECKING:
    from gateway.hub.hub import Hub
    from gateway.ws.connection import SessionSocket

TICK_S = 0.25

CLOCK_STEP_S = 1.0
"""Change of the wall clock against the monotonic clock, between two ticks, after which the deadlines of tokens are
computed again. A token's expiry is in wall time, and deadlines are in monotonic time."""

HEAD_START_S = 1.0
"""What the webhook of a change that a browser awaits has before the provider is asked: most are under way by then."""

EXPECTS_PER_SOCKET = 64
"""Expects of one socket that may be pending; another is answered `too_many_expects`."""

CLOSE_TIMEOUT_S = 2.0
"""How long a peer has to answer a close frame."""

UNHEARD_MAX = 3
"""Heartbeats, each with a ping, that may go unanswered before the connection counts as half-open."""

RECONNECT_LEAST_MS = 5_000
"""How far a browser's back-off may grow where there is no crowd to be spread."""

STREAMS_POLL_S = 0.05
"""How often a drain looks whether the last event stream has ended."""

LOGGER = "gateway.socket"

log = structlog.get_logger(LOGGER)


class ConnectionRegistry:
    """The sockets of one process."""

    def __init__(
        self, settings: GatewaySettings, hub: Hub, metrics: Metrics, want_reconcile: Callable[[str], None]
    ) -> None:
        self.sockets: set[SessionSocket] = set()
        self.draining = False
        self._settings = settings
        self._hub = hub
        self._metrics = metrics
        self._want_reconcile = want_reconcile
        self._deadlines: Deadlines[SessionSocket] = Deadlines(TICK_S)
        self._expects: Deadlines[tuple[SessionSocket, str, int]] = Deadlines(TICK_S)
        self._expecting: dict[SessionSocket, dict[tuple[SessionSocket, str, int], int]] = {}
        self._awaited: Deadlines[tuple[str, int]] = Deadlines(TICK_S)
        self._stalled: set[SessionSocket] = set()
        self._beats: list[set[SessionSocket]] = [set() for _ in range(max(1, round(settings.heartbeat_s / TICK_S)))]
        self._beat = 0
        self._ack_rule = hub.ack_rule()
        self._advice_beats = 0
        self._freshness_at = 0.0
        self._per_address: Counter[str] = Counter()
        self._per_subject: Counter[str] = Counter()
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._wall_offset_s = _wall_offset_s()

    # Sockets come and go.

    def admit(self, headers: dict[bytes, bytes], peer: str) -> str:
        """Return the client's address when it may open a socket.

        Raises:
            Refused: the origin is not allowed, or a limit is reached.
        """
        settings = self._settings
        if self.draining or len(self.sockets) >= settings.sockets_max:
            self._metrics.refused["draining" if self.draining else "sockets_max"] += 1
            raise Refused(503, "busy", "no more sockets here, try again", (("Retry-After", "2"),))
        origin = headers.get(b"origin")
        # A browser always sends one; whoever does not is not a browser, and its token alone decides.
        if origin is not None and not self._is_allowed(origin.decode("latin-1"), headers):
            self._metrics.refused["origin"] += 1
            raise Refused(403, "origin", "pages of this origin may not connect; see PLANWIRE_ALLOWED_ORIGINS")
        address = self._proxies.client(peer, headers.get(b"x-forwarded-for", b"").decode("latin-1"))
        if self._per_address[group(address)] >= settings.sockets_per_address:
            self._metrics.refused["address"] += 1
            raise Refused(429, "too_many_sockets", "too many sockets from this address", (("Retry-After", "5"),))
        return address

    def _is_allowed(self, origin: str, headers: dict[bytes, bytes]) -> bool:
        """Whether a page of `origin` may connect: an allowed one, or, where there is a console, the gateway's own."""
        if self._settings.origin_allowed(origin):
            return True
        host = headers.get(b"host", b"").decode("latin-1")
        has_console = bool(self._settings.console_token.get_secret_value())
        return has_console and origins.is_own_page(origin, host) and origins.is_rebinding_proof(origin)

    def opened(self, socket: SessionSocket) -> None:
        """Count a socket whose handshake is done, and give it its time for the hello."""
        self.sockets.add(socket)
        self._per_address[group(socket.peer)] += 1
        self._metrics.sockets = len(self.sockets)
        socket.bucket = self._deadlines.add(time.monotonic() + self._settings.hello_timeout_s, socket)

    def greeted(self, socket: SessionSocket) -> bool:
        """Take an accepted hello into account: expiry, heartbeats, the limit per subject.

        Returns:
            False where the subject has as many sockets as it may: this one is closing.
        """
        claims = socket.session.claims
        assert claims is not None
        if self._per_subject[claims.sub] >= self._settings.sockets_per_subject:
            self._metrics.refused["subject"] += 1
            socket.session.claims = None  # as if it had sent no hello: it is not counted, and neither is its close
            socket.close(CloseCode.LIMIT, "too many sockets of this subject")
            return False
        self._metrics.opened += 1
        self._per_subject[claims.sub] += 1
        self.renewed(socket)
        self._beats[self._metrics.opened % len(self._beats)].add(socket)
        session = socket.session
        logs.info(LOGGER, "connect", session=session.id, sub=claims.sub, peer=socket.peer, client=session.client)
        return True

    def renewed(self, socket: SessionSocket) -> None:
        """Watch the expiry of the token now in force."""
        assert socket.session.claims is not None
        self._deadlines.discard(socket.bucket, socket)
        socket.bucket = self._deadlines.add(socket.session.claims.ends_at - _wall_offset_s(), socket)

    def closing(self, socket: SessionSocket) -> None:
        """Give the peer its time to answer the close."""
        self._deadlines.discard(socket.bucket, socket)
        socket.bucket = self._deadlines.add(time.monotonic() + CLOSE_TIMEOUT_S, socket)

    def lost(self, socket: SessionSocket) -> None:
        """Forget a socket that is gone."""
        self.sockets.discard(socket)
        self._deadlines.discard(socket.bucket, socket)
        self._stalled.discard(socket)
        for item, bucket in self._expecting.pop(socket, {}).items():
            self._expects.discard(bucket, item)
        for beat in self._beats:
            beat.discard(socket)
        _decrement(self._per_address, group(socket.peer))
        self._metrics.sockets = len(self.sockets)
        self._metrics.socket_closed(socket.close_code)
        claims = socket.session.claims
        if claims is not None:
            _decrement(self._per_subject, claims.sub)
            logs.info(
                LOGGER,
                "close",
                session=socket.session.id,
                sub=claims.sub,
                code=socket.close_code,
                seconds=round(max(0.0, time.time() - socket.opened_at), 3),
            )

    def stalled(self, socket: SessionSocket) -> None:
        """Watch a socket that does not drain."""
        socket.stalled_at, socket.stalled_bytes = time.monotonic(), socket.buffered_bytes()
        self._stalled.add(socket)

    def drained(self, socket: SessionSocket) -> None:
        """Stop watching it, and make up for the news of freshness that it could not be told."""
        self._stalled.discard(socket)
        if self._freshness_at >= socket.stalled_at:
            socket.write(self._heartbeat())

    def expect(self, socket: SessionSocket, topic: str, after: int, timeout_s: float) -> None:
        """Answer an expect: what is there is newer already, or it is pending."""
        self._metrics.expects += 1
        subscription = socket.session.topics[topic]
        if subscription.sent > after:
            socket.write(frames.text(protocol.current(topic, subscription.sent), False))
            return
        item, now = (socket, topic, after), time.monotonic()
        pending = self._expecting.setdefault(socket, {})
        if item in pending:
            self._expects.discard(pending[item], item)  # said again: its time begins anew
        elif len(pending) >= EXPECTS_PER_SOCKET and not self._forget_met(socket, pending):
            message = f"more than {EXPECTS_PER_SOCKET} expects are pending on this socket"
            socket.write(frames.text(protocol.error("too_many_expects", message, topic), False))
            return
        pending[item] = self._expects.add(now + timeout_s, item)
        socket.write(frames.text(protocol.pending(topic, after), False))
        self._awaited.add(now + min(HEAD_START_S, timeout_s / 2), (topic, after))

    def _forget_met(self, socket: SessionSocket, pending: dict[tuple[SessionSocket, str, int], int]) -> bool:
        """Drop the expects whose version has come, which else stay until their time; return whether there were any."""
        topics = socket.session.topics
        met = [item for item in pending if item[1] not in topics or topics[item[1]].sent > item[2]]
        for item in met:
            self._expects.discard(pending.pop(item), item)
        return bool(met)

    def reconnect_ms(self) -> tuple[int, int]:
        """Return the bounds of a browser's back-off: a millisecond for each socket here, so that they come back spread.

        A thousand a second is a fifth of what a process can take; who is few has no reason to wait for long.
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
        """Do everything that is due at `now` (seconds of the monotonic clock)."""
        self._look_at_clock()
        in_chunks(self._deadlines.due(now), self._due)  # tokens that were made together end together
        for topic, after in self._awaited.due(now):
            live = self._hub.topic(topic)
            if live is None or live.version <= after:
                self._want_reconcile(topic)
        for item in self._expects.due(now):
            socket, topic, after = item
            pending = self._expecting.get(socket, {})
            pending.pop(item, None)
            if not pending:
                self._expecting.pop(socket, None)
            subscription = socket.session.topics.get(topic)
            if subscription is not None and subscription.sent <= after:
                self._metrics.expects_expired += 1
                socket.write(frames.text(protocol.expired(topic, after), False))
        for socket in list(self._stalled):
            self._check_stall(socket, now)
        self._look_at_acks()
        self._beat = (self._beat + 1) % len(self._beats)
        beat = self._beats[self._beat]
        if beat:
            data = self._heartbeat() + frames.PING
            for socket in list(beat):
                self._beat_one(socket, data)
                if self._advice_beats:
                    self._advise(socket)
        self._advice_beats = max(0, self._advice_beats - 1)
        self._hub.expire_idle()

    def _look_at_clock(self) -> None:
        """Compute the deadlines of all tokens again if the wall clock was set."""
        offset_s = _wall_offset_s()
        if abs(offset_s - self._wall_offset_s) > CLOCK_STEP_S:
            log.warning("clock_set", by_s=round(offset_s - self._wall_offset_s, 3))
            in_chunks(list(self.sockets), self._book_expiry)
        self._wall_offset_s = offset_s

    def _book_expiry(self, socket: SessionSocket) -> None:
        if socket in self.sockets and not socket.is_closing and socket.session.claims is not None:
            self.renewed(socket)

    def _due(self, socket: SessionSocket) -> None:
        if socket not in self.sockets:  # gone since
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

    def _check_stall(self, socket: SessionSocket, now: float) -> None:
        waiting = socket.buffered_bytes()
        if waiting < socket.stalled_bytes:
            socket.stalled_at, socket.stalled_bytes = now, waiting
        elif now - socket.stalled_at > self._settings.send_timeout_s:
            # A close frame would only wait behind what is stuck.
            self._stalled.discard(socket)
            socket.close_code = CloseCode.NO_PROGRESS
            socket.close(CloseCode.NO_PROGRESS, "no progress")
            socket.abort()

    def _look_at_acks(self) -> None:
        """Have one round of heartbeats tell everyone, when the rule for acks has changed since they came.

        One step down is left alone, or a number that goes up and down would have everyone told all the time.
        """
        rule = self._hub.ack_rule()
        if is_outdated(self._ack_rule, rule):
            self._ack_rule = rule
            self._advice_beats = len(self._beats)

    def _advise(self, socket: SessionSocket) -> None:
        for subscription in socket.session.topics.values():
            self._hub.send_ack_policy(subscription)

    def _heartbeat(self) -> bytes:
        return frames.text(protocol.heartbeat(time.time_ns() // 1000, self._hub.fresh, self._hub.verified_at_us), False)

    def _beat_one(self, socket: SessionSocket, data: bytes) -> None:
        if socket.pending is not None:
            return  # it is asked nothing, and has the send timeout to answer to
        socket.unheard += 1
        if socket.unheard > UNHEARD_MAX:
            socket.close_code = 1006
            socket.abort()
        else:
            socket.write(data)

    def announce_freshness(self) -> None:
        """Tell every socket at once that the bus is proved to deliver, or not."""
        self._metrics.fresh = self._hub.fresh
        self._freshness_at = time.monotonic()
        data = self._heartbeat()
        in_chunks([socket for beat in self._beats for socket in beat], partial(self._tell, data))

    def _tell(self, data: bytes, socket: SessionSocket) -> None:
        if socket.pending is None and socket in self.sockets:
            socket.write(data)

    async def drain(self, over_s: float) -> None:
        """Say bye and close, one after the other, evenly over `over_s`; admit nobody meanwhile.

        A browser comes back within a second of its own close, so the reconnects are spread as the closes are.
        """
        self.draining = self._metrics.draining = True
        started = time.monotonic()
        await self._close_all(over_s, started)
        # Event streams are no sockets: they see the drain themselves and end within it, each at a time of its own.
        while self._metrics.streams and time.monotonic() < started + over_s:  # noqa: ASYNC110 - once in a life
            await asyncio.sleep(STREAMS_POLL_S)

    async def _close_all(self, over_s: float, started: float) -> None:
        sockets = list(self.sockets)
        back_ms = round(min(1.0, over_s / 10) * 1000)
        bye = frames.text(protocol.bye(back_ms), False)
        closing_s = over_s - back_ms / 1000
        for index, socket in enumerate(sockets):
            wait_s = started + closing_s * index / len(sockets) - time.monotonic()
            if wait_s > 0.005:
                await asyncio.sleep(wait_s)
            if socket in self.sockets:
                self._metrics.drained += 1
                socket.write(bye)
                socket.close(CloseCode.GOING_AWAY, "going away")


def _wall_offset_s() -> float:
    """Return the difference between the wall clock and the monotonic clock."""
    return time.time() - time.monotonic()


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
