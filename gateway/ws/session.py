"""One socket's protocol state: turns inbound frames into effects and answers. Pure.

`receive` returns effects, and the shell (gateway/ws/session_socket.py) carries them out in order. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from gateway.auth.claims import AuthFailure, Claims
from gateway.ws import protocol
from planwire_client.core.fields import FrameError
from planwire_client.core.frames import Ack, CloseCode, Expect, Hello, Nack, Subscribe, Token, Unsubscribe, read_inbound

T = TypeVar("T")

STATES_BYTES_PER_S = 65_536
"""Rate limit of the states sent in answer to `subscribe` frames after the hello, in bytes per second and socket. Pushed
changes do not count."""


class Send(NamedTuple):
    """Send this frame."""

    frame: bytes


class Accepted(NamedTuple):
    """The hello was accepted: count the session, set its expiry, and send this welcome."""

    frame: bytes


class Renewed(NamedTuple):
    """A new token was accepted: set the new expiry, and send this welcome, which contains it."""

    frame: bytes


class Close(NamedTuple):
    """Close the socket."""

    code: int
    reason: str


Effect = Send | Accepted | Subscribe | Unsubscribe | Ack | Nack | Expect | Renewed | Close
"""An instruction to the shell. A client's frame that the session allows is itself an effect."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The configuration of all sessions of a gateway.

    Attributes:
        verify: takes a token and the Unix time; returns its claims, or why it is invalid.
        topics_max: topics per socket.
        states_burst_bytes: burst of STATES_BYTES_PER_S: the states of as many topics as a socket may have.
        frames_per_s: maximum inbound frames per second, with a burst of twice as many.
        heartbeat_ms: the heartbeat interval in the welcome.
        reconnect_ms: returns the current bounds of a browser's backoff, in milliseconds.
        ack_rule: returns the current share of versions to acknowledge, and the upper bound of the jitter in ms.
        is_revoked: returns whether a topic of a token was revoked.
    """

    verify: Callable[[str, float], Claims | AuthFailure]
    topics_max: int
    frames_per_s: int
    heartbeat_ms: int
    states_burst_bytes: int = 2_097_152
    reconnect_ms: Callable[[], tuple[int, int]] = lambda: (500, 30_000)
    ack_rule: Callable[[], tuple[float, int]] = lambda: (1, 250)
    is_revoked: Callable[[Claims, str], bool] = lambda claims, topic: False

    def may_read(self, claims: Claims, topic: str) -> bool:
        """Return whether a token with these claims grants `topic` now."""
        return claims.may_read(topic) and not self.is_revoked(claims, topic)


class Session(Generic[T]):
    """The state of one socket. `topics` maps each subscribed topic to the shell's object for it."""

    __slots__ = ("_credit", "_credit_at", "_rules", "_states_until", "claims", "client", "id", "topics")

    def __init__(self, session_id: str, rules: SessionConfig) -> None:
        self.id = session_id
        self.claims: Claims | None = None
        self.client = ""
        self.topics: dict[str, T] = {}
        self._rules = rules
        self._credit: float = 2 * rules.frames_per_s
        self._credit_at = 0.0
        self._states_until = 0.0

    def receive(self, data: bytes, now: float, fresh: bool) -> list[Effect]:
        """Return the effects of one text frame. `now`: Unix seconds; `fresh`: the current freshness, for a welcome."""
        if not self.spend(now):
            return [_limit("too_many_frames", f"more than {self._rules.frames_per_s} frames a second")]
        try:
            frame = read_inbound(data)
        except FrameError as error:
            if self.claims is None:
                return [Send(protocol.error(error.code, error.message)), Close(CloseCode.PROTOCOL_ERROR, error.code)]
            return [Send(protocol.error(error.code, error.message, error.topic))]
        if self.claims is None:
            if isinstance(frame, Hello):
                return self._hello(frame, now, fresh)
            text = protocol.error("no_hello", "the first frame must be hello")
            return [Send(text), Close(CloseCode.NO_HELLO, "no_hello")]
        match frame:
            case Subscribe():
                return self._subscribe(frame)
            case Expect() if frame.topic not in self.topics:
                return [Send(protocol.error("not_subscribed", "expect names a topic not subscribed", frame.topic))]
            case Token():
                return self._renew(frame.token, now, fresh)
            case Hello():
                return [Send(protocol.error("bad_frame", "hello comes once"))]
            case _:
                return [frame] if frame.topic in self.topics else []

    def reject(self) -> None:
        """Undo the accepted hello."""
        self.claims = None

    def spend(self, now: float) -> bool:
        """Return whether a frame is within the rate limit: a token bucket with a burst of two seconds."""
        rate = self._rules.frames_per_s
        credit = min(2.0 * rate, self._credit + max(0.0, now - self._credit_at) * rate)
        self._credit, self._credit_at = credit - 1, now
        return credit >= 1

    def spend_state(self, size_bytes: int, now: float) -> bool:
        """Return whether a state of this size may be sent in answer to a `subscribe`.

        Args:
            size_bytes: the state's size.
            now: seconds of the monotonic clock.
        """
        # The time at which all states so far would be sent, at exactly this rate.
        self._states_until = max(self._states_until, now) + size_bytes / STATES_BYTES_PER_S
        return self._states_until - now <= self._rules.states_burst_bytes / STATES_BYTES_PER_S

    def _hello(self, hello: Hello, now: float, fresh: bool) -> list[Effect]:
        claims = self._rules.verify(hello.token, now)
        if isinstance(claims, AuthFailure):
            return [Send(protocol.error(claims.code, claims.message)), Close(CloseCode.TOKEN, claims.code)]
        if len(hello.topics) > self._rules.topics_max:
            return [_too_many_topics(self._rules.topics_max)]
        self.claims, self.client = claims, hello.client
        effects: list[Effect] = [Accepted(self._welcome(claims, fresh))]
        for topic, held in hello.topics.items():
            effects += self._subscribe(Subscribe(topic, held))
        return effects

    def _welcome(self, claims: Claims, fresh: bool) -> bytes:
        rules, ends_at = self._rules, int(claims.exp)
        return protocol.welcome(self.id, rules.heartbeat_ms, fresh, ends_at, rules.reconnect_ms(), rules.ack_rule())

    def _subscribe(self, frame: Subscribe) -> list[Effect]:
        assert self.claims is not None
        if not self._rules.may_read(self.claims, frame.topic):
            return [Send(protocol.error("forbidden", "the token does not open this topic", frame.topic))]
        if frame.topic not in self.topics and len(self.topics) >= self._rules.topics_max:
            return [_too_many_topics(self._rules.topics_max)]
        return [frame]

    def _renew(self, token: str, now: float, fresh: bool) -> list[Effect]:
        """Exchange the token. If the new one is rejected, the old one stays valid until it expires."""
        assert self.claims is not None
        claims = self._rules.verify(token, now)
        if isinstance(claims, AuthFailure):
            return [Send(protocol.error(claims.code, claims.message))]
        if claims.sub != self.claims.sub:
            return [Send(protocol.error("subject_changed", "a refresh must be for the same subject"))]
        self.claims = claims
        effects: list[Effect] = [Renewed(self._welcome(claims, fresh))]
        for topic in list(self.topics):
            if not self._rules.may_read(claims, topic):
                effects += [Unsubscribe(topic), Send(protocol.gone(topic, "revoked"))]
        return effects


def _limit(code: str, message: str) -> Close:
    return Close(CloseCode.LIMIT, f"{code}: {message}")


def _too_many_topics(limit: int) -> Close:
    return _limit("too_many_topics", f"more than {limit} topics on one socket")
