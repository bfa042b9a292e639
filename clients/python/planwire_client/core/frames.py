"""Every frame of `planwire.v1`, declared once: its name, fields, bounds and meaning (docs/protocol.md). Pure.

The readers and writers of gateway and clients, the AsyncAPI document and the check of the page's tables are made from
these classes. The first paragraph of each docstring is the description in the AsyncAPI document.
"""

from __future__ import annotations

import re
from enum import IntEnum
from types import MappingProxyType
from typing import Annotated, NamedTuple, TypeVar, get_args

from planwire_client.core import fields
from planwire_client.core.fields import cut, integer, matching, reader, words, writer
from planwire_client.core.limits import CLIENT_MAX_CHARS, REASON_MAX_CHARS, TIMEOUT_MAX_MS

F = TypeVar("F")

SUBPROTOCOL = "planwire.v1"
CONNECT_PATH = "/v1/connect"


class CloseCode(IntEnum):
    """Why a socket is closed. 4000-4499: the client may reconnect; 4500-4999: it must not."""

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
    """The first frame: the token, the topics, and the client's version of each."""

    token: fields.Text
    topics: fields.Versions = MappingProxyType({})
    client: Annotated[str, cut(CLIENT_MAX_CHARS)] = ""


class Subscribe(NamedTuple):
    """Subscribes to a topic. For a subscribed topic, requests its state again."""

    topic: fields.TopicName
    version: fields.Version = 0


class Unsubscribe(NamedTuple):
    """Ends the subscription to a topic."""

    topic: fields.TopicName


class Ack(NamedTuple):
    """The client's listeners ran with this version."""

    topic: fields.TopicName
    version: fields.Version


class Nack(NamedTuple):
    """The client could not use this version."""

    topic: fields.TopicName
    version: fields.Version
    reason: Annotated[str, cut(REASON_MAX_CHARS)] = ""


CheckoutId = Annotated[str, matching("[A-Za-z0-9_-]{1,255}", "a checkout's id, txn_... or cs_...")]


class Expect(NamedTuple):
    """The client waits for a version newer than `after`, or until the state contains what `checkout` has paid for."""

    topic: fields.TopicName
    after: fields.Version = 0
    timeout_ms: Annotated[int, integer(1, TIMEOUT_MAX_MS)] = 30_000
    checkout: CheckoutId | None = None


class Token(NamedTuple):
    """A new token for the same subject."""

    token: fields.Text


# Frames to the client.


class Backoff(NamedTuple):
    """The bounds of a client's backoff."""

    min_ms: fields.Integer
    max_ms: fields.Integer


class AckRule(NamedTuple):
    """The share of versions to ack, and the time over which acks are spread."""

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
    """The new rule for acks of one topic."""

    topic: fields.TopicName
    share: fields.Share
    after_ms: fields.Milliseconds


_RESET = {"const": True, "description": "The store lost newer state: a lower version holds.", "type": "boolean"}


class Snapshot(NamedTuple):
    """The whole newest state of a topic."""

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
    """The client's version is the newest. `checkout`: it contains what this checkout of an `expect` has paid for."""

    topic: fields.TopicName
    version: fields.Version
    checkout: CheckoutId | None = None


class Pending(NamedTuple):
    """There is no newer version yet; the gateway is looking for one."""

    topic: fields.TopicName
    after: fields.Version


class Expired(NamedTuple):
    """No newer version came in time."""

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
    """The gateway rejected a request; `code` is stable."""

    code: fields.Text
    message: fields.Text
    topic: fields.TopicName | None = None


class Bye(NamedTuple):
    """This gateway is stopping: reconnect after random(0..reconnect_ms)."""

    reconnect_ms: fields.Milliseconds


Inbound = Hello | Subscribe | Unsubscribe | Ack | Nack | Expect | Token
Outbound = Welcome | AckPolicy | Snapshot | Patch | Current | Pending | Expired | Heartbeat | Gone | Error | Bye


def _by_type(*declared: type[F]) -> dict[str, type[F]]:
    """Return the frames by their `type`, for example AckPolicy by ack_policy."""
    return {re.sub("(?<=[a-z])(?=[A-Z])", "_", one.__name__).lower(): one for one in declared}


INBOUND: dict[str, type[Inbound]] = _by_type(*get_args(Inbound))
"""The frames that clients send, by `type`."""

OUTBOUND: dict[str, type[Outbound]] = _by_type(*get_args(Outbound))
"""The frames that gateways send, by `type`."""

read_inbound = reader(INBOUND)
"""Return the frame from a client's JSON. Raises FrameError."""

read_outbound = reader(OUTBOUND)
"""Return the frame from a gateway's JSON. Raises FrameError; with `unknown_type` for a type of a later gateway."""

write = writer({**INBOUND, **OUTBOUND})
"""Return the frame as JSON."""
