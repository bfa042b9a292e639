"""Every frame of `planwire.v1`, declared once: its name, fields, bounds and meaning (docs/protocol.md). Pure.

The gateway's and the clients' reading and writing, the AsyncAPI document and the check of the page's tables come from
these classes. The first paragraph of each docstring is the description that users read.
"""

from __future__ import annotations

import re
from enum import IntEnum
from types import MappingProxyType
from typing import Annotated, NamedTuple, TypeVar, get_args

from planwire_client.core import fields
from planwire_client.core.fields import cut, integer, reader, words, writer
from planwire_client.core.limits import CLIENT_MAX_CHARS, REASON_MAX_CHARS, TIMEOUT_MAX_MS

F = TypeVar("F")

SUBPROTOCOL = "planwire.v1"
CONNECT_PATH = "/v1/connect"


class CloseCode(IntEnum):
    """Why a socket is closed. 4000-4499: come back; 4500-4999: do not."""

    GOING_AWAY = 4000
    NO_PROGRESS = 4008
    TOKEN = 4401
    PROTOCOL_ERROR = 4500
    NO_HELLO = 4501
    FORBIDDEN = 4503
    TOO_LARGE = 4513
    LIMIT = 4529


# Frames to the gateway.


class Hello(NamedTuple):
    """The first frame: who, which topics, and which version of each is held."""

    token: fields.Text
    topics: fields.Versions = MappingProxyType({})
    client: Annotated[str, cut(CLIENT_MAX_CHARS)] = ""


class Subscribe(NamedTuple):
    """One more topic; for a topic already held, a wish to be greeted anew."""

    topic: fields.TopicName
    version: fields.Version = 0


class Unsubscribe(NamedTuple):
    """No more of this topic."""

    topic: fields.TopicName


class Ack(NamedTuple):
    """The listeners ran with this version."""

    topic: fields.TopicName
    version: fields.Version


class Nack(NamedTuple):
    """This version could not be used."""

    topic: fields.TopicName
    version: fields.Version
    reason: Annotated[str, cut(REASON_MAX_CHARS)] = ""


class Expect(NamedTuple):
    """Something newer than `after` is awaited."""

    topic: fields.TopicName
    after: fields.Version = 0
    timeout_ms: Annotated[int, integer(1, TIMEOUT_MAX_MS)] = 30_000


class Token(NamedTuple):
    """A fresh token for the same subject."""

    token: fields.Text


# Frames to the client.


class Backoff(NamedTuple):
    """The bounds of a client's back-off."""

    min_ms: fields.Integer
    max_ms: fields.Integer


class AckRule(NamedTuple):
    """Which share of versions to ack, and within how long."""

    share: fields.Share
    after_ms: fields.Milliseconds


class Welcome(NamedTuple):
    """The hello was accepted."""

    session: fields.Text
    heartbeat_ms: fields.Integer
    fresh: fields.Flag
    token_expires_at: Annotated[int, integer(description="Unix seconds.")]
    reconnect: Backoff
    ack: AckRule


class AckPolicy(NamedTuple):
    """The rule for acks of one topic, from now on."""

    topic: fields.TopicName
    share: fields.Share
    after_ms: fields.Milliseconds


_RESET = {"const": True, "description": "The store lost newer state: a lower version holds.", "type": "boolean"}


class Snapshot(NamedTuple):
    """The newest state of a topic, whole."""

    topic: fields.TopicName
    version: fields.Version
    state: fields.State
    reset: Annotated[bool, fields.Rule(lambda value, name: bool(value), _RESET)] = False
    cause: fields.JsonObject | None = None


class Patch(NamedTuple):
    """The change from `base` to `version` as an RFC 7396 merge patch."""

    topic: fields.TopicName
    base: fields.Version
    version: fields.Version
    patch: fields.JsonObject
    cause: fields.JsonObject | None = None


class Current(NamedTuple):
    """What is held is the newest."""

    topic: fields.TopicName
    version: fields.Version


class Pending(NamedTuple):
    """Nothing newer yet; it is being looked for."""

    topic: fields.TopicName
    after: fields.Version


class Expired(NamedTuple):
    """Nothing newer came in time."""

    topic: fields.TopicName
    after: fields.Version


class Heartbeat(NamedTuple):
    """Sign of life; `verified_at` is when the bus was last proved to deliver, `at` is now. Microseconds since 1970."""

    at: fields.Integer
    fresh: fields.Flag
    verified_at: fields.Integer


class Gone(NamedTuple):
    """The gateway has ended the subscription."""

    topic: fields.TopicName
    reason: Annotated[str, words("revoked", "expired", "erased")]


class Error(NamedTuple):
    """Something was refused; `code` is stable."""

    code: fields.Text
    message: fields.Text
    topic: fields.TopicName | None = None


class Bye(NamedTuple):
    """This gateway is stopping: come back in random(0..reconnect_ms)."""

    reconnect_ms: fields.Milliseconds


Inbound = Hello | Subscribe | Unsubscribe | Ack | Nack | Expect | Token
Outbound = Welcome | AckPolicy | Snapshot | Patch | Current | Pending | Expired | Heartbeat | Gone | Error | Bye


def _by_type(*declared: type[F]) -> dict[str, type[F]]:
    """Return the frames by their `type`: AckPolicy is ack_policy."""
    return {re.sub("(?<=[a-z])(?=[A-Z])", "_", one.__name__).lower(): one for one in declared}


INBOUND: dict[str, type[Inbound]] = _by_type(*get_args(Inbound))
"""What clients send, by `type`."""

OUTBOUND: dict[str, type[Outbound]] = _by_type(*get_args(Outbound))
"""What gateways send, by `type`."""

read_inbound = reader(INBOUND)
"""Return the frame that a client sent. Raises FrameError."""

read_outbound = reader(OUTBOUND)
"""Return the frame that a gateway sent. Raises FrameError; with `unknown_type` where a later gateway added one."""

write = writer({**INBOUND, **OUTBOUND})
"""Return the frame as JSON."""
