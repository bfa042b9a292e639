"""The endpoints that outgoing webhooks are sent to, as the setting has them. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

SECRET_PREFIX = "whsec_"  # noqa: S105 - marks secrets
KEY_MIN_BYTES, KEY_MAX_BYTES = 24, 64
"""The size of a key, by the standard."""

ENDPOINTS_MAX = 16
SECRETS_MAX = 4

FORM = "an endpoint is NAME URL SECRET, with spaces between; several are comma separated"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint.

    Attributes:
        name: names its queue, its metrics and what was delivered to it.
        url: where to POST.
        keys: each signs every message, so that a receiver can change from one to the next.
    """

    name: str
    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)

    @property
    def is_confidential(self) -> bool:
        """Whether messages are safe from eavesdroppers: https, or a loopback host."""
        split = urlsplit(self.url)
        return split.scheme == "https" or split.hostname in _LOOPBACK


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Return the endpoints in a setting: `NAME URL SECRET [SECRET...]`, comma separated.

    Raises:
        ValueError: the text has another form; the message has no secret.
    """
    found = tuple(_endpoint(part) for item in text.split(",") if (part := item.split()))
    if len({endpoint.name for endpoint in found}) != len(found):
        raise ValueError("two endpoints have the same name")
    if len(found) > ENDPOINTS_MAX:
        raise ValueError(f"there can be {ENDPOINTS_MAX} endpoints")
    return found


def _endpoint(parts: list[str]) -> Endpoint:
    name, *rest = parts
    if not _NAME.fullmatch(name) or len(rest) < 2:
        raise ValueError(FORM)
    url, *secrets = rest
    if not _is_url(url):
        raise ValueError(f"the address of {name} must be an http or https URL without a user or a fragment")
    if len(secrets) > SECRETS_MAX:
        raise ValueError(f"{name} has more than {SECRETS_MAX} secrets")
    return Endpoint(name, url, tuple(_key(name, secret) for secret in secrets))


def _is_url(url: str) -> bool:
    try:
        split = urlsplit(url)
        has_port = split.port != 0
    except ValueError:
        return False
    return bool(split.scheme in ("http", "https") and split.hostname and has_port) and not (
        "@" in split.netloc or split.fragment
    )


def _key(name: str, secret: str) -> bytes:
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if text == secret or not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
        size = f"{KEY_MIN_BYTES} to {KEY_MAX_BYTES} bytes in base64"
        raise ValueError(
            f"a secret of {name} must be {SECRET_PREFIX} and {size} (echo whsec_$(openssl rand -base64 32))"
        )
    return key
