"""A session on a WebSocket: carries out the session's effects, and sends the hub's frames."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gateway.ws import frames, protocol, session
from gateway.ws.connection import WebSocket
from gateway.ws.handshake import Acceptor, Headers
from gateway.ws.session import Effect, Session
from planwire_client.core.frames import Ack, CloseCode, Expect, Nack, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from gateway.auth.revocations import Revocations
    from gateway.hub.subscription import Subscription
    from gateway.ws.deadlines import Deadlines
    from gateway.ws.registry import ConnectionRegistry

UNKNOWN_STATE_BYTES = 8192
"""Assumed size of a state that is not in memory, in bytes, for the rate limit on `subscribe`."""


class SessionSocket(WebSocket):
    """One browser's socket.

    Attributes:
        pending: topics with a newer version, collected while the transport does not drain; None while it drains.
        deflate: whether its frames may be compressed.
        session: the session; set after the handshake.
        opened_at: when the handshake was done, in seconds since 1970.
        peer: the client's address.
    """

    __slots__ = ("_bucket", "_registry", "_unanswered_beats", "deflate", "opened_at", "peer", "pending", "session")

    session: Session[Subscription]

    def __init__(self, server_state: ServerState, app_state: dict[str, Any], acceptor: Acceptor) -> None:
        super().__init__(server_state, app_state, acceptor)
        self._registry: ConnectionRegistry = app_state["node"].registry
        self.pending: dict[Subscription, None] | None = None
        self.deflate = False
        self.peer = ""
        self.opened_at = 0.0
        self._bucket = 0
        self._unanswered_beats = 0

    # From the handshake to the session's effects.

    def frame_limit(self) -> int:
        """Return the maximum size of a frame in bytes, from the settings."""
        return self._registry.settings.frame_max_bytes

    def admit(self, headers: Headers) -> None:
        """Check the origin and the limits on sockets."""
        self.peer = self._registry.admission.admit(headers, self.peer_address())

    def on_open(self) -> None:
        """Start the session and the deadline for its hello."""
        # The socket counts as not draining as soon as the kernel does not accept a byte; then topics wait, not bytes.
        # A plain transport pauses above the limit. A TLS transport pauses at the limit, so 0 would pause it when empty.
        is_plain = self.transport.get_extra_info("sslcontext") is None
        self.transport.set_write_buffer_limits(high=0 if is_plain else 1)
        if self.pending is None:
            self._enable_direct_write()
        self.deflate = self._extension is not None
        self.opened_at = time.time()
        self.session = self._registry.open_session(self)
        self._acceptor.hello_awaited(self)

    def data_received(self, data: bytes) -> None:
        """Handle data, which also counts as a sign of life."""
        self._unanswered_beats = 0
        super().data_received(data)

    def control(self) -> bool:
        """Count pings, pongs and parts of a message as frames."""
        return self.session.spend(time.time())

    def received(self, data: bytes, is_text: bool) -> None:
        """Carry out the effects of one frame."""
        if not is_text:
            self.close(CloseCode.PROTOCOL_ERROR, "frames are text")
            return
        self._registry.metrics.received += 1
        # All answers to one frame (a welcome and a dozen snapshots, say) are sent in one system call.
        self._cork = []
        is_greeted = self.session.claims is not None
        for effect in self.session.receive(data, time.time(), self._registry.hub.fresh):
            self._carry_out(effect, is_greeted)
            if self.is_closing:
                break
        self.uncork()

    def _carry_out(self, effect: Effect, is_greeted: bool) -> None:
        """Carry out one effect. `is_greeted`: the hello came in an earlier frame."""
        registry, hub, topics = self._registry, self._registry.hub, self.session.topics
        match effect:
            case Ack(topic, version):
                hub.acks.record(topics[topic], version)
            case Subscribe(topic, held):
                if is_greeted and not self._may_ask_for(topic):
                    self.close(CloseCode.LIMIT, "too_many_states: subscribing asks for too many states")
                elif topic in topics:
                    hub.resubscribe(topics[topic], held)
                else:
                    topics[topic] = hub.attach(self, topic, held)
            case session.Accepted(frame):
                self._acceptor.connection_settled(self)
                if registry.greeted(self):
                    self.write_text(frame)
            case session.Send(frame):
                self.write_text(frame)
            case Unsubscribe(topic):
                hub.detach(topics.pop(topic))
            case Nack(topic, version, reason):
                hub.acks.record_nack(topics[topic], version, reason)
            case Expect(topic, after, timeout_ms, checkout):
                registry.expects.add(self, topic, after, timeout_ms / 1000, checkout or "")
            case session.Renewed(frame):
                registry.renewed(self)
                self.write_text(frame)
                # Its rule for acks applies to every topic, so topics with their own rule are sent that again.
                for subscription in topics.values():
                    if hub.acks.has_own_rule(subscription.live):
                        hub.acks.send_policy(subscription)
            case session.Close(code, reason):
                if code == CloseCode.TOKEN:
                    registry.metrics.auth_failures[reason] += 1
                self.close(code, reason)

    def write_text(self, text: bytes) -> None:
        """Send UTF-8 text as one frame."""
        self.write(frames.text(text, False))

    def _may_ask_for(self, topic: str) -> bool:
        """Return whether the answer to a `subscribe` is within the rate limit of states."""
        if self.pending is not None:
            return True  # the socket does not drain: only the newest state is sent, later
        live = self._registry.hub.topic(topic)
        size_bytes = UNKNOWN_STATE_BYTES if live is None or not live.known else len(live.state)
        return self.session.spend_state(size_bytes, time.monotonic())

    # Backpressure.

    def pause_writing(self) -> None:
        """Collect topics instead of sending: the kernel's buffer is full."""
        if self.pending is None:
            self.hold_back()
            self._registry.stalled(self)
        self.direct_fd = -1

    def hold_back(self) -> None:
        """Collect topics instead of sending until `resume_writing`, as if the transport did not drain."""
        if self.pending is None:
            self.direct_fd = -1
            self.pending = {}

    def resume_writing(self) -> None:
        """Send the newest version of every collected topic: the transport's buffer is empty."""
        pending, self.pending = self.pending, None
        self._enable_direct_write()
        if pending is None:
            return
        self._registry.drained(self)
        # If one of them fills the buffer again, the hub collects the rest in the new `pending`.
        for subscription in pending:
            self._registry.hub.send_latest(subscription)

    def buffered_bytes(self) -> int:
        """Return the number of bytes in the transport's buffer."""
        return self.transport.get_write_buffer_size()

    # Used by the registry.

    def schedule(self, deadlines: Deadlines[SessionSocket], at: float | None) -> None:
        """Set the socket's only deadline (hello, then token expiry, then closing) to `at`, in monotonic seconds.

        None: remove it.
        """
        deadlines.discard(self._bucket, self)
        if at is not None:
            self._bucket = deadlines.add(at, self)

    def count_heartbeat(self) -> int:
        """Count a heartbeat; return how many the client has not answered with any data, this one included."""
        self._unanswered_beats += 1
        return self._unanswered_beats

    # The end.

    def revoke(self, revocations: Revocations) -> None:
        """Apply revocations: close the socket, or end single topics."""
        claims = self.session.claims
        if claims is None or self.is_closing:
            return
        if revocations.is_revoked(claims):
            self.write_text(protocol.error("token_revoked", "the token was revoked"))
            self.close(CloseCode.TOKEN, "token_revoked")
            return
        for topic in [topic for topic in self.session.topics if revocations.is_revoked(claims, topic)]:
            self.end(topic, "revoked")

    def end(self, topic: str, reason: str) -> None:
        """End the subscription to the topic, and send `gone`."""
        self._registry.hub.detach(self.session.topics.pop(topic))
        self._registry.metrics.gone += 1
        self.write_text(protocol.gone(topic, reason))

    def on_closing(self) -> None:
        """Start the time limit for the peer's answer to the close."""
        self._registry.closing(self)

    def on_lost(self) -> None:
        """End every subscription."""
        for subscription in self.session.topics.values():
            self._registry.hub.detach(subscription)
        self.session.topics.clear()
        self._registry.lost(self)
