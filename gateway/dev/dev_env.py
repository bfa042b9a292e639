"""The development environment: secrets that are generated once and stored in `dev.env`.

The file also holds the addresses of the last run, for the command line in another terminal. The real environment takes
precedence, and its secrets are not written to the file. Production never reads it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import GatewayError
from sync.process import environment

FILE_NAME = "dev.env"
HEADER = "# Made by `make run` for development on this machine. Delete it to get new secrets.\n"
PUBLISH_KEY = "PLANWIRE_PUBLISH_KEY"
PUBLISH_KEYS = "PLANWIRE_PUBLISH_KEYS"
PUBLISH_RIGHTS = "PLANWIRE_PUBLISH_RIGHTS"
TOLERANT_PUBLISH_RIGHTS = environment.TOLERANT + PUBLISH_RIGHTS
TOLERANT_TENANT_SECRET = environment.TOLERANT + "PLANWIRE_TENANT_SECRET"
"""Older builds, which do not know the setting, ignore this name and start with the same file."""

KEY_NAME = "dev"
KEY_RIGHTS = f"{KEY_NAME}:publish+usage+tenants+admin:*"


class DevEnvError(GatewayError):
    """The file of development secrets cannot be read or written; the text names the file and the reason."""


def load(data_dir: Path) -> dict[str, str]:
    """Return the names and values in the data directory's `dev.env`; empty if there is no file.

    Raises:
        DevEnvError: the file exists but cannot be read.
    """
    path = data_dir / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DevEnvError(f"cannot read {path}: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, sign, value in pairs if sign}


def overlay(environ: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` completed by `values`. An empty variable counts as missing.

    The publish key and its hash belong together: if the environment has one of them, the other is not taken from
    `values`. The generated key gets all rights.
    """
    merged = dict(environ)
    given = {name for name, value in environ.items() if value}
    for name, value in values.items():
        paired = name in (PUBLISH_KEY, PUBLISH_KEYS) and given & {PUBLISH_KEY, PUBLISH_KEYS}
        if name not in given and not paired:
            merged[name] = value
    if PUBLISH_KEY in given and PUBLISH_KEYS not in given:
        merged[PUBLISH_KEYS] = hashed(KEY_NAME, environ[PUBLISH_KEY])
    is_ours = PUBLISH_KEYS not in given and re.fullmatch(rf"{KEY_NAME}:\w+", merged.get(PUBLISH_KEYS, ""))
    if is_ours and not given & {PUBLISH_RIGHTS, TOLERANT_PUBLISH_RIGHTS}:
        # Use the tolerant name: older builds without rights ignore it, and start with the same environment.
        merged[TOLERANT_PUBLISH_RIGHTS] = KEY_RIGHTS
    return merged


def ensure(data_dir: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the content of the data directory's `dev.env`, completed by missing secrets and `addresses` (mode 0600).

    Raises:
        DevEnvError: the file cannot be read or written.
    """
    kept = load(data_dir)
    values = generate() | kept | dict(addresses)
    if PUBLISH_KEY not in kept or PUBLISH_KEYS not in kept:
        values[PUBLISH_KEYS] = hashed(KEY_NAME, values[PUBLISH_KEY])
    if values != kept:
        _write(data_dir / FILE_NAME, values)
    return values


def generate() -> dict[str, str]:
    """Return a new value for every secret that the processes need."""
    publish_key = f"pw_{secrets.token_urlsafe(32)}"
    return {
        "PLANWIRE_JWT_SECRET": secrets.token_urlsafe(48),
        TOLERANT_TENANT_SECRET: secrets.token_urlsafe(48),
        PUBLISH_KEY: publish_key,
        PUBLISH_KEYS: hashed(KEY_NAME, publish_key),
        "PLANWIRE_PADDLE_SECRETS": _per_environment("pdl_ntfset_dev_"),
        "PLANWIRE_PADDLE_API_KEYS": _per_environment("pdl_dev_apikey_"),
    }


def hashed(name: str, key: str) -> str:
    """Return the entry of PLANWIRE_PUBLISH_KEYS for a publish key."""
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def _per_environment(prefix: str) -> str:
    return ",".join(f"{name}:{prefix}{secrets.token_hex(24)}" for name in ("live", "sandbox"))


def _write(path: Path, values: Mapping[str, str]) -> None:
    """Replace the file atomically; only its owner can read it."""
    body = HEADER + "".join(f"{name}={value}\n" for name, value in values.items())
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise DevEnvError(f"cannot write {path}: {error}") from error
