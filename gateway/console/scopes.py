"""Who may do what in the console: the tokens of PLANWIRE_CONSOLE_TOKEN, each with its scopes. Pure.

A holder of one token can make nothing that another one opens: every key is derived from its own token.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

READ, ADMIN, PRIVATE = "read", "admin", "private"
SCOPES = (READ, ADMIN, PRIVATE)
"""See; act; see private parts, too. Whoever may do more may see."""

_SCOPED = re.compile(r"((?:read|admin|private)(?:\+(?:read|admin|private))*):(.*)", re.DOTALL)


class ConsoleTokenError(ValueError):
    """The setting's text cannot be used; it never shows a token."""


@dataclass(frozen=True, slots=True)
class ConsoleToken:
    """A token's scopes, and what is derived from it.

    Attributes:
        id: names it in cookies, stream tokens and the audit; opens nothing.
        cookie_key, stream_key: sign the cookies of its sessions, and the tokens that open their streams.
    """

    text: bytes = field(repr=False)
    scopes: tuple[str, ...]
    id: str
    cookie_key: bytes = field(repr=False)
    stream_key: bytes = field(repr=False)


def parse(setting: str) -> tuple[ConsoleToken, ...]:
    """Return the tokens of a setting: comma separated, `TOKEN` for every scope or `admin+private:TOKEN` for some.

    Raises:
        ConsoleTokenError: an entry has no token, or one is there twice.
    """
    tokens = [_token(entry) for part in setting.split(",") if (entry := part.strip())]
    if len({token.text for token in tokens}) != len(tokens):
        raise ConsoleTokenError("a token is there twice")
    return tuple(tokens)


def find(tokens: Iterable[ConsoleToken], presented: str) -> ConsoleToken | None:
    """Return the token that was presented, or None. Takes the same time whichever is meant, right or wrong."""
    given = presented.encode("utf-8", "replace")
    found = None
    for token in tokens:
        # Digests are of equal length, so that the comparison's time says nothing of the token's.
        if hmac.compare_digest(_derived(token.cookie_key, given), _derived(token.cookie_key, token.text)):
            found = token
    return found


def _token(entry: str) -> ConsoleToken:
    match = _SCOPED.fullmatch(entry)
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


def _derived(key: bytes, label: bytes) -> bytes:
    return hmac.digest(key, label, "sha256")
