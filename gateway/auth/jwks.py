"""Key sets (RFC 7517) from a file or URL, kept current in a task of their own; verifying tokens never waits for them.

A set that cannot be fetched or read leaves the last good one in force and is tried again with growing, jittered pauses.
A file is read again when it changes; a URL on a timer, and soon after a token names an unknown key id - at most once
per `retry_s`, so forged ids cannot make us hammer the issuer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import jwt
import orjson
import structlog
from jwt.algorithms import get_default_algorithms

from gateway.auth.tokens import Auth
from gateway.auth.verify_keys import KeySet, VerifyKey
from gateway.errors import GatewayError

MAX_BYTES = 262_144
"""The largest key set that is read."""

KEYS_MAX = 64
"""Keys of a set that are looked at; the rest is ignored."""

KID_MAX = 256
"""Characters a key id may have; a key with a longer one is ignored."""

FETCH_TIMEOUT_S = 5.0
"""For connecting, for each read, and for the whole fetch."""

POLL_S = 0.5
"""How often a file's stamp and the count of unknown key ids are looked at."""

RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0

RSA_MIN_BITS = 2048
"""Shorter RSA keys are ignored (RFC 7518 section 3.3)."""

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_FITTING = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""Algorithms that a key of this type and curve can be for; the first is meant where the key does not say. Shared
secrets (kty oct) are missing on purpose: a key set is public."""

log = structlog.get_logger("gateway.auth.jwks")


class JwksError(GatewayError):
    """The key set could not be fetched, or holds no usable key; the text says why."""


def parse_keys(data: bytes, algorithms: Sequence[str]) -> tuple[VerifyKey, ...]:
    """Return the usable keys of a JWKS document, each pinned to one of `algorithms`.

    A key for something else than signatures, of another type, for another algorithm, or broken is left out: sets hold
    such keys legitimately.

    Raises:
        JwksError: the document is not a key set, or no key of it is usable.
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
    kty = entry.get("kty")
    curve = None if kty == "RSA" else entry.get("crv")
    fitting = _FITTING.get((kty, curve), ()) if isinstance(kty, str) and isinstance(curve, str | None) else ()
    name = entry.get("alg", fitting[0] if fitting else None)
    if name not in fitting or name not in algorithms:
        return None
    # Only the public members: a set that leaks a private key must not make us hold it.
    public = {member: entry[member] for member in ("kty", "crv", "n", "e", "x", "y") if member in entry}
    algorithm = get_default_algorithms()[name]
    try:
        key = algorithm.from_jwk(public)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kty == "RSA" and key.key_size < RSA_MIN_BITS:
        return None
    return VerifyKey(kid, name, algorithm, key)


class Jwks:
    """Keeps an `Auth` supplied with the keys at `location` (a file's path or a URL) beside the `fixed` ones."""

    def __init__(
        self,
        auth: Auth,
        location: str,
        algorithms: Sequence[str],
        *,
        fixed: Sequence[VerifyKey] = (),
        refresh_s: float = 300,
        retry_s: float = 10,
    ) -> None:
        """Supply `auth`; nothing is read before `load` or `run`."""
        self._auth = auth
        self._location = location
        self._algorithms = tuple(algorithms)
        self._fixed = tuple(fixed)
        self._refresh_s = refresh_s
        self._retry_s = retry_s
        self._stamp: tuple[int, int, int] | None = None
        self._document = b""
        self.failures = 0
        self.fetches = 0

    @property
    def is_url(self) -> bool:
        """Whether the set is fetched rather than read from a file."""
        return "://" in self._location

    async def load(self) -> bool:
        """Return whether the newest set was read; otherwise it was logged and the last good one stays in force."""
        self.fetches += 1
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                data = await (self._fetch() if self.is_url else asyncio.to_thread(self._read))
            if data != self._document:
                keys = parse_keys(data, self._algorithms)
                self._auth.replace_keys(KeySet((*self._fixed, *keys)))
                self._document = data
                log.info("keys_loaded", keys=len(keys), kids=[key.kid for key in keys])
        except (JwksError, OSError, TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            self.failures += 1
            log.warning("keys_unavailable", error=str(error) or type(error).__name__, failures=self.failures)
            return False
        self._auth.keys_fetched()
        self.failures = 0
        return True

    async def run(self) -> None:
        """Keep the keys current until cancelled."""
        tried_at = time.monotonic()
        due = tried_at + (0 if self._auth.awaits_keys else self._pause(loaded=True))
        unknown = self._auth.unknown_kids
        while True:
            now = time.monotonic()
            asked = self._auth.unknown_kids != unknown and now - tried_at >= self._retry_s
            changed = not self.is_url and await asyncio.to_thread(self._file_stamp) != self._stamp
            if now >= due or (self.is_url and asked) or changed:
                unknown, tried_at = self._auth.unknown_kids, now
                loaded = await self.load()
                due = time.monotonic() + self._pause(loaded)
            await asyncio.sleep(POLL_S)

    def _pause(self, loaded: bool) -> float:
        if loaded:
            return self._refresh_s * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        # The exponent is capped before the power is: a long outage must not build a huge number.
        longest = min(RETRY_MAX_S, self._refresh_s, RETRY_MIN_S * 2 ** min(self.failures, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311

    async def _fetch(self) -> bytes:
        # No redirects and no proxies from the environment: the set comes from where the operator said, or not at all.
        async with (
            httpx2.AsyncClient(timeout=FETCH_TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", self._location, headers={"Accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise JwksError(f"the key set's server answered {response.status_code}")
            data = bytearray()
            async for chunk in response.aiter_bytes(16_384):
                data += chunk
                if len(data) > MAX_BYTES:
                    raise JwksError(f"the key set is larger than {MAX_BYTES} bytes")
            return bytes(data)

    def _read(self) -> bytes:
        self._stamp = self._file_stamp()
        with Path(self._location).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise JwksError(f"the key set is larger than {MAX_BYTES} bytes")
        return data

    def _file_stamp(self) -> tuple[int, int, int] | None:
        """Return what changes when the file does: inode, size, modification time in ns; None where there is none."""
        try:
            stat = os.stat(self._location)
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
