"""The console tokens of PLANWIRE_CONSOLE_TOKEN, each with its scopes and derived keys. Pure.

Keys are derived per token, so the holder of one token cannot forge cookies or stream tokens of another.
"""

from __future__ import annotations

import difflib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

READ, ADMIN, PRIVATE = "read", "admin", "private"
SCOPES = (READ, ADMIN, PRIVATE)
"""The scopes: see, act, see private parts. Every token has the scope read."""

TOKEN_MIN = 32
"""Minimum length of a token outside development."""

_SCOPED = re.compile(r"((?:read|admin|private)(?:\+(?:read|admin|private))*):(.*)", re.DOTALL)


class ConsoleTokenError(ValueError):
    """The setting is invalid. The text never contains a token."""


@dataclass(frozen=True, slots=True)
class ConsoleToken:
    """A token with its scopes and derived keys.

    Attributes:
        id: the name of the token in cookies, stream tokens and the audit; it grants nothing.
        cookie_key: signs the cookies of its sessions.
        stream_key: signs the tokens for their streams.
    """

    text: bytes = field(repr=False)
    scopes: tuple[str, ...]
    id: str
    cookie_key: bytes = field(repr=False)
    stream_key: bytes = field(repr=False)


def parse(setting: str) -> tuple[ConsoleToken, ...]:
    """Return the tokens of a setting: comma separated, `TOKEN` for every scope or `admin+private:TOKEN` for some.

    The text before the first colon is read as scopes, so a token with a colon must have scopes before it.

    Raises:
        ConsoleTokenError: an entry has no token or an unknown scope, or a token occurs twice.
    """
    tokens = [_token(entry) for part in setting.split(",") if (entry := part.strip())]
    if len({token.text for token in tokens}) != len(tokens):
        raise ConsoleTokenError("a token is there twice")
    return tuple(tokens)


def find(tokens: Iterable[ConsoleToken], presented: str) -> ConsoleToken | None:
    """Return the matching token, or None. The time taken does not depend on which one matches."""
    given = presented.encode("utf-8", "replace")
    found = None
    for token in tokens:
        # Digests have equal lengths, so the time of the comparison does not reveal the length of the token.
        if hmac.compare_digest(_derived(token.cookie_key, given), _derived(token.cookie_key, token.text)):
            found = token
    return found


def _token(entry: str) -> ConsoleToken:
    match = _SCOPED.fullmatch(entry)
    if match is None and ":" in entry:
        raise ConsoleTokenError(_unknown_scope(entry.partition(":")[0]))
    named, text = (match[1].split("+"), match[2].strip()) if match else (list(SCOPES), entry)
    if not text:
        raise ConsoleTokenError("an entry has scopes and no token")
    secret = text.encode()
    scopes = tuple(scope for scope in SCOPES if scope == READ or scope in named)
    return ConsoleToken(
        secret,
        scopes,
        _derived(secret, b"planwire console id v1").hex()[:8],
        _derived(secret, b"planwire console cookie v1"),
        _derived(secret, b"planwire console stream v1"),
    )


def _unknown_scope(text: str) -> str:
    """Return the error for an unknown scope, without showing it: it may be the beginning of a token."""
    words = text.lower().split("+")
    meant = [close for word in words for close in difflib.get_close_matches(word.strip(), SCOPES, 1)]
    hint = f" (did you mean {'+'.join(meant)}:?)" if len(meant) == len(words) else ""
    known = ", ".join(SCOPES)
    return (
        f"an entry begins with a scope that there is not{hint}; known are {known}; "
        "a token with a colon in it is written behind its scopes, as admin+private:TOKEN"
    )


def _derived(key: bytes, label: bytes) -> bytes:
    return hmac.digest(key, label, "sha256")
