"""Reads the environment variables for every process: known names only, values without surrounding blanks. Pure.

Kubernetes adds variables to every container of a namespace. For a Service whose name begins with `planwire` they have
our prefix. They are recognised by name and form, and left out.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sync.core.errors import SyncError

PREFIX = "PLANWIRE_"

TOLERANT = "X_"
"""Optional mark before a setting's name, as in `X_PLANWIRE_...`. A build that does not know the setting ignores the
marked name. Without the mark, an unknown setting is an error."""

DEFAULT_DATA_DIR = ".planwire"

OUTBOX_URL = PREFIX + "OUTBOX_URL"
"""URL of the applications' PostgreSQL; only the outbox relay reads it."""

NAMES = frozenset(Path(__file__).with_name("setting_names.txt").read_text("ascii").split())
"""All settings of all processes: they share one environment, so each process must know every name.

`make docs` writes the file from the settings models, which this layer cannot import.
"""

UNPREFIXED_NAMES = frozenset(("PORT", "WEB_CONCURRENCY"))
"""Settings with the platforms' names, without our prefix."""


class SettingNameError(SyncError):
    """A setting's name in the environment cannot be used; the text says why."""


_LINK = PREFIX + r"(?:[A-Z0-9_]+_)?"
_PORT = r"PORT_[0-9]+_(?:TCP|UDP|SCTP)"
_LINK_URL = re.compile(rf"{_LINK}(?:PORT|{_PORT})")
_LINK_ADDRESS = re.compile(rf"{_LINK}(?:SERVICE_HOST|{_PORT}_ADDR)")
_LINK_NUMBER = re.compile(rf"{_LINK}(?:SERVICE_PORT(?:_[A-Z0-9_]+)?|{_PORT}_PORT)")
_LINK_PROTOCOL = re.compile(rf"{_LINK}{_PORT}_PROTO")
_URL = re.compile(r"(?:tcp|udp|sctp)://(.+):([0-9]{1,5})")


def read(environ: Mapping[str, str], own: Collection[str] = ()) -> dict[str, str]:
    """Return `environ` with each of our settings under its plain name and with its value stripped.

    Values are stripped because a secret from a file often ends in a line feed. Service links are left out. Names with
    the mark TOLERANT lose it, except those of unknown settings, which `ignored_names` lists.

    Args:
        environ: environment variables.
        own: names of settings that are known besides NAMES.

    Raises:
        SettingNameError: a `PLANWIRE_` name is neither a setting nor a service link (the first such name
            alphabetically), or a setting has two different values.
    """
    known = NAMES.union(own)
    found = {}
    for name in sorted(environ):
        value = environ[name]
        if name.startswith(PREFIX):
            if is_service_link(name, value):
                continue
            if name not in known:
                closest = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"; did you mean {closest[0]}?" if closest else ""
                raise SettingNameError(f"unknown setting {name}{hint}")
        found[name] = value.strip() if name.startswith(PREFIX) or name in UNPREFIXED_NAMES else value
    for name in sorted(known):
        value = found.pop(TOLERANT + name, "").strip()
        if value and found.get(name, "") not in ("", value):
            raise SettingNameError(f"{name} and {TOLERANT}{name} have different values: set one of them")
        if value:
            found[name] = value
    return found


def ignored_names(environ: Iterable[str]) -> list[str]:
    """Return the names in `environ` that have the mark TOLERANT, but no setting in this build."""
    tolerant = (name for name in environ if name.startswith(TOLERANT + PREFIX))
    return sorted(name for name in tolerant if name.removeprefix(TOLERANT) not in NAMES)


def mixed_versions() -> dict[str, str]:
    """Return the versions of `planwire` and `planwire-client` if both are installed and differ, else an empty dict.

    Both packages contain `planwire_client`; the one that was installed last has overwritten its files.
    """
    try:
        found = {name: version(name) for name in ("planwire", "planwire-client")}
    except PackageNotFoundError:
        return {}
    return found if len(set(found.values())) > 1 else {}


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes (or Docker) has set this variable for a Service called `planwire` or `planwire-...`.

    Both the name and the value's form must match. If one of our settings has a matching name, the value must be
    `PROTOCOL://ADDRESS:PORT`, which no setting can have.
    Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    value = value.strip()
    if _LINK_URL.fullmatch(name) and (match := _URL.fullmatch(value)):
        return _is_address(match[1].removeprefix("[").removesuffix("]")) and _is_port(match[2])
    return name not in NAMES and bool(
        (_LINK_ADDRESS.fullmatch(name) and _is_address(value))
        or (_LINK_NUMBER.fullmatch(name) and _is_port(value))
        or (_LINK_PROTOCOL.fullmatch(name) and value in ("tcp", "udp", "sctp"))
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65_536
