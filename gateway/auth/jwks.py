"""Key sets (RFC 7517) from a file or URL. A background task keeps them current; verifying a token never waits for it.

If a set cannot be fetched or read, the last good one stays in force, and retries follow with jittered backoff. A file
is read again when it changes. A URL is fetched on a timer, and soon after a token names an unknown key id. The latter
happens at most once per `retry_s`, so that forged ids cannot cause a flood of fetches.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import jwt
import orjson
import structlog
from jwt.algorithms import get_default_algorithms

from gateway.auth.tokens import Auth
from gateway.auth.verify_keys import KeySet, VerifyKey
from gateway.errors import GatewayError
from planwire_client.http import NO_ANSWER

MAX_BYTES = 262_144
"""Maximum size of a key set."""

KEYS_MAX = 64
"""Maximum number of keys read from a set; the rest is ignored."""

KID_MAX = 256
"""Maximum characters of a key id; a key with a longer id is ignored."""

FETCH_TIMEOUT_S = 5.0
"""Timeout for connecting, for each read, and for the whole fetch."""

POLL_S = 0.5
"""Interval between checks of the file's stamp and of the count of unknown key ids."""

RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0

RSA_MIN_BITS = 2048
"""Shorter RSA keys are ignored (RFC 7518 section 3.3)."""

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""Algorithms that an RSA key may have. A key of another type has the one algorithm of its type and curve."""

log = structlog.get_logger("gateway.auth.jwks")


class JwksError(GatewayError):
    """The key set could not be fetched, or has no usable key; the text says why."""


def parse_keys(data: bytes, algorithms: Sequence[str]) -> tuple[VerifyKey, ...]:
    """Return the usable keys of a JWKS document, each pinned to one of `algorithms`.

    Unusable keys are left out, because a valid set may have some: keys for encryption, of another type, for another
    algorithm, or broken ones.

    Raises:
        JwksError: the document is not a key set, or has no usable key.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise JwksError(f"the key set is not JSON: {error}") from error
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise JwksError('the key set has no list "keys"')
    keys = [key for entry in listed[:KEYS_MAX] if (key := _parse_key(entry, algorithms)) is not None]
    if not keys:
        raise JwksError(f"the key set has no signature key for {', '.join(algorithms)}")
    return tuple(keys)


def _parse_key(entry: object, algorithms: Sequence[str]) -> VerifyKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations, kid = entry.get("key_ops"), entry.get("kid", "")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    if not isinstance(kid, str) or len(kid) > KID_MAX:
        return None
    # Read only the public members: a private key leaked by a set must not get into memory. Shared secrets (kty oct) are
    # not accepted, because a set is public.
    public = {member: entry[member] for member in ("kty", "crv", "n", "e", "x", "y") if member in entry}
    try:
        found = jwt.PyJWK(public)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    name = entry.get("alg", found.algorithm_name)
    fitting = _RSA if found.key_type == "RSA" else (found.algorithm_name,)
    if name not in fitting or name not in algorithms:
        return None
    if found.key_type == "RSA" and found.key.key_size < RSA_MIN_BITS:
        return None
    return VerifyKey(kid, name, get_default_algorithms()[name], found.key)


@dataclass(eq=False)
class Jwks:
    """Updates the keys of an `Auth` from `location`, a file's path or a URL.

    Attributes:
        auth: verifies tokens with the keys.
        location: a file's path or a URL.
        algorithms: algorithms that a key may be pinned to.
        fixed: keys that are always in force, beside those of the set.
        refresh_s: seconds between regular fetches of a URL.
        retry_s: minimum seconds between fetches that an unknown key id causes.
        failures: consecutive failed loads.
    """

    auth: Auth
    location: str
    algorithms: Sequence[str]
    fixed: Sequence[VerifyKey] = ()
    refresh_s: float = 300
    retry_s: float = 10
    failures: int = field(default=0, init=False)
    _stamp: tuple[int, int, int] | None = field(default=None, init=False)
    _document: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self._is_url = "://" in self.location

    async def load(self) -> bool:
        """Load the set. Return False, and log why, if that fails; the last good set then stays in force."""
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                data = await (self._fetch() if self._is_url else asyncio.to_thread(self._read))
            if len(data) > MAX_BYTES:
                raise JwksError(f"the key set is larger than {MAX_BYTES} bytes")
            if data != self._document:
                keys = parse_keys(data, self.algorithms)
                self.auth.replace_keys(KeySet((*self.fixed, *keys)))
                self._document = data
                log.info("keys_loaded", keys=len(keys), kids=[key.kid for key in keys])
        except (JwksError, OSError, TimeoutError, httpx2.HTTPError, httpx2.InvalidURL, *NO_ANSWER) as error:
            self.failures += 1
            log.warning("keys_unavailable", error=str(error) or type(error).__name__, failures=self.failures)
            return False
        self.failures = 0
        return True

    async def run(self) -> None:
        """Keep the keys current until cancelled."""
        tried_at = time.monotonic()
        due = tried_at + (0 if self.auth.awaits_keys else self._pause(loaded=True))
        unknown = self.auth.unknown_kids
        while True:
            now = time.monotonic()
            asked = self.auth.unknown_kids != unknown and now - tried_at >= self.retry_s
            changed = not self._is_url and await asyncio.to_thread(self._file_stamp) != self._stamp
            if now >= due or (self._is_url and asked) or changed:
                unknown, tried_at = self.auth.unknown_kids, now
                loaded = await self.load()
                due = time.monotonic() + self._pause(loaded)
            await asyncio.sleep(POLL_S)

    def _pause(self, loaded: bool) -> float:
        if loaded:
            return self.refresh_s * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        # Cap the exponent: after a long outage the power would be a huge number.
        longest = min(RETRY_MAX_S, self.refresh_s, RETRY_MIN_S * 2 ** min(self.failures, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311

    async def _fetch(self) -> bytes:
        # No redirects and no proxies from the environment: only the configured server may supply keys.
        async with (
            httpx2.AsyncClient(timeout=FETCH_TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", self.location, headers={"Accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise JwksError(f"the key set's server answered {response.status_code}")
            data = bytearray()
            async for chunk in response.aiter_bytes(16_384):
                data += chunk
                if len(data) > MAX_BYTES:
                    break
            return bytes(data)

    def _read(self) -> bytes:
        self._stamp = self._file_stamp()
        with Path(self.location).open("rb") as file:
            return file.read(MAX_BYTES + 1)

    def _file_stamp(self) -> tuple[int, int, int] | None:
        """Return the file's inode, size and modification time in ns, which show a change; None without a file."""
        try:
            stat = os.stat(self.location)
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
