"""A topic's name, `[env/]kind:id`, parsed and checked, and the ids of the outside world written as topic ids. Pure.

An id of the outside world (`auth0|5f1c`) stands in a topic percent-encoded (`auth0%7C5f1c`): every byte of its UTF-8
except `A-Z a-z 0-9 . _ ~ @ -`, in upper case, and no other byte. So every id has exactly one topic. For people, the
topic is written readably: `tenant:auth0|5f1c`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from planwire_client.core.limits import SAFE_INTEGER_MAX

LIVE = "live"
"""The environment of a name without a prefix."""

TENANT_KIND = "tenant"
"""The kind of the topics that billing computes."""

USAGE_KIND = "usage"
"""The kind of the topics that show what tenants have used of their limits: `usage:acme` of `tenant:acme`."""

PROBE_KIND = "probe"
"""The kind of the gateways' canary topics. No token grants it, and it cannot be published to over HTTP."""

REPORT_KINDS = ("gateway", "console")
"""The kinds of the gateways' reports to consoles: on themselves, and on the tabs of one topic. Tokens need the scope
console to read them, and they cannot be published to over HTTP."""

RESERVED_KINDS = (PROBE_KIND, *REPORT_KINDS)
"""The kinds that gateways use themselves, in every environment."""

UNPUBLISHED_KINDS = (*RESERVED_KINDS, USAGE_KIND)
"""The kinds that nobody publishes."""

ID_MAX_BYTES = 128
"""Maximum length of an id, decoded."""

_SEGMENT = r"[a-z][a-z0-9_-]{0,31}"
ID_BYTE = (
    "(?:[A-Za-z0-9._~@-]"
    "|%(?:[01][0-9A-F]|2[0-9A-CF]|3[A-F]|5[B-E]|60|7[B-DF]|[89A-F][0-9A-F]))"
)  # fmt: skip
"""One byte of an id: itself, or percent-encoded if it has to be."""

PATTERN = rf"(?:{_SEGMENT}/)?{_SEGMENT}:{ID_BYTE}{{1,{ID_MAX_BYTES}}}"
"""The form of a name, as a portable regular expression. In addition, `live/` is not allowed as a prefix."""

READABLE_PATTERN = rf"(?:{_SEGMENT}/)?{_SEGMENT}:[\s\S]*\S[\s\S]*"
"""The form of a name with the id decoded. In addition, the id has at most 128 bytes."""

MISSING_VALUES = frozenset(("undefined", "null", "[object Object]", "NaN", "None"))
"""What programs write for a value that they do not have. None of them names anybody."""

EXPECTED = "expected [env/]kind:id, such as tenant:acme or sandbox/tenant:acme (live is written without a prefix)"

SHOWN_MAX_CHARS = 60
"""Maximum characters of a rejected text in an error."""

matched = re.compile(rf"(?!{LIVE}/){PATTERN}").fullmatch
"""Return a match if the text is a topic's only valid name, else None."""

WHITE_SPACE = (
    " \t\n\v\f\r\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""What a browser's `\\s` matches and its `trim()` removes, so that both clients reject the same texts."""

_parts = re.compile(rf"(?:({_SEGMENT})/)?({_SEGMENT}):(.*)", re.DOTALL).fullmatch


class TopicError(ValueError):
    """The text is not a topic's name, or the value is not an id."""


def topic(kind: str, id: str | int, env: str = LIVE) -> str:
    """Return the name of the topic of an id of the outside world: `topic("tenant", "auth0|5f1c")`.

    Args:
        kind: such as tenant or user.
        id: as the application has it, not encoded: 1 to 128 bytes of UTF-8, or an integer up to 2^53-1.
        env: the environment; live is written without a prefix.

    Raises:
        TopicError: the id names nobody (it is blank, or what a program writes for a missing value), is too long, or is
            neither text nor an integer; or kind or env has not the form of a topic's.
    """
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise TopicError(f"an id is text or an integer, not {shown(id)}")
    if isinstance(id, int) and abs(id) > SAFE_INTEGER_MAX:
        raise TopicError(f"{id} is beyond 2^53-1, and browsers read it as another number: give the id as text")
    return str(Topic.parse(str(Topic(env, kind, encode_id(str(id))))))


def encode_id(text: str, *, any_name: bool = False) -> str:
    """Return the topic id of an id of the outside world. Different ids have different topic ids.

    Args:
        any_name: also for what names nobody, unless it is empty.

    Raises:
        TopicError: the id names nobody, is longer than 128 bytes or is not Unicode.
    """
    if not any_name or not text:
        _check(text)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise TopicError(f"{shown(text)} has half of a surrogate pair, which is no character") from None
    if size > ID_MAX_BYTES:
        raise TopicError(f"{shown(text)} has {size} bytes: an id has at most {ID_MAX_BYTES}")
    return quote(text, safe="@")


def decode_id(id: str) -> str:
    """Return the id of the outside world for a topic id: the inverse of `encode_id`."""
    return unquote_to_bytes(id).decode(errors="replace")


def read_topic(text: str) -> Topic:
    """Return the topic that a person writes: by its name, or in another spelling, such as `tenant:auth0|5f1c`.

    Escapes count as escapes, in either case; a percent sign that begins none stands for itself.

    Raises:
        TopicError: it is neither.
    """
    return Topic.named(text if matched(text) else str(decoded_topic(_decoded(text) or text)))


def decoded_topic(text: str) -> Topic:
    """Return the topic whose decoded name is `text`. Each character of the id stands for itself, `%` too.

    Raises:
        TopicError: it has not the form `[env/]kind:id`, or the id names nobody or is too long.
    """
    parts = _parts(text)
    if parts is None or parts[1] == LIVE:
        raise TopicError(f"{shown(text)} is not a topic: {EXPECTED}")
    env, kind, id = parts.groups(LIVE)
    return Topic(env, kind, encode_id(id))


def shown(value: object) -> str:
    """Return a rejected value for an error, at most SHOWN_MAX_CHARS characters of it."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN_MAX_CHARS else f"{value[:SHOWN_MAX_CHARS]!r}..."
    if value is None or isinstance(value, bool | int | float):
        return repr(value)[:SHOWN_MAX_CHARS]
    # Not its repr: that of a deeply nested value would overflow the stack.
    return f"a {type(value).__name__}"


def not_a_topic(text: str) -> TopicError:
    """Return the error for a text that is not a topic's name; it says how to write the topic, if that is clear."""
    try:
        advice = f"write {read_topic(text)} (an id is percent-encoded once, as the clients' topic() does)"
    except TopicError:
        advice = EXPECTED
    return TopicError(f"{shown(text)} is not a topic: {advice}")


def _check(id: str) -> None:
    if not id.strip(WHITE_SPACE) or id in MISSING_VALUES:
        raise TopicError(f"{shown(id)} names nobody: it is what programs write for a missing value; give the id")


def _encoded(text: str) -> str | None:
    try:
        return str(read_topic(text))
    except TopicError:
        return None


def _decoded(text: str) -> str | None:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return None


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `str()` returns its only name: the live environment has no prefix."""

    env: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.env == LIVE else f"{self.env}/{self.kind}:{self.id}"

    @property
    def readable(self) -> str:
        """The name for people, with the id decoded, if `read_topic` finds the topic by it; else the name."""
        text = decode_id(str(self))
        return text if text.isprintable() and _encoded(text) == str(self) else str(self)

    @classmethod
    def named(cls, text: str) -> Topic:
        """Return the topic with the name `text`, which somebody gives now.

        Raises:
            TopicError: as `parse`, and for an id that names nobody, such as undefined. A topic of such a name may be
                stored since earlier, so `parse` returns it.
        """
        found = cls.parse(text)
        _check(decode_id(found.id))
        return found

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Return the topic with the name `text`.

        Raises:
            TopicError: `text` does not match, or has the prefix `live/` (each topic has only one name).
        """
        if matched(text) is None:
            raise not_a_topic(text)
        scope, _, identifier = text.partition(":")
        env, _, kind = scope.rpartition("/")
        return cls(env or LIVE, kind, identifier)


def usage_topic(tenant: str) -> str:
    """Return the name of the topic that shows the usage of a tenant, by the name of the tenant's topic."""
    env, _, id = tenant.partition(f"{TENANT_KIND}:")
    return f"{env}{USAGE_KIND}:{id}"


def tenant_of(topic: str) -> str:
    """Return the name of the tenant's topic, by the name of its usage topic; "" for a topic of another kind."""
    env, is_usage, id = topic.partition(f"{USAGE_KIND}:")
    return f"{env}{TENANT_KIND}:{id}" if is_usage and (not env or env[-1] == "/") else ""


def environment_of(name: str) -> str:
    """Return the environment in a topic's name, which is known to be valid."""
    env, slash, _ = name.partition("/")
    return env if slash else LIVE
