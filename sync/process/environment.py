"""The environment variables as every process reads them: known names only, values without surrounding blanks. Pure.

Kubernetes adds variables of its own to every container of a namespace, and those of a Service whose name begins with
`planwire` have our prefix. They are recognised by name and form, and left out.
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
"""May stand before the name of a setting. A build that does not know the setting ignores such a name, also one from
before the setting existed; without the X_ it would be an unknown setting, and an error."""

DEFAULT_DATA_DIR = ".planwire"

OUTBOX_URL = PREFIX + "OUTBOX_URL"
"""The applications' PostgreSQL; read by the outbox relay alone."""

NAMES = frozenset(Path(__file__).with_name("setting_names.txt").read_text("ascii").split())
"""Every setting of every process: all share one environment, so each must know all names.

The file is made by `make docs` from the settings models, which this layer cannot import.
"""

UNPREFIXED_NAMES = frozenset(("PORT", "WEB_CONCURRENCY"))
"""What is read under the names that platforms give it."""


class SettingNameError(SyncError):
    """The environment gives a setting under a name that cannot be used; the text says why."""


_LINK = PREFIX + r"(?:[A-Z0-9_]+_)?"
_PORT = r"PORT_[0-9]+_(?:TCP|UDP|SCTP)"
_LINK_URL = re.compile(rf"{_LINK}(?:PORT|{_PORT})")
_LINK_ADDRESS = re.compile(rf"{_LINK}(?:SERVICE_HOST|{_PORT}_ADDR)")
_LINK_NUMBER = re.compile(rf"{_LINK}(?:SERVICE_PORT(?:_[A-Z0-9_]+)?|{_PORT}_PORT)")
_LINK_PROTOCOL = re.compile(rf"{_LINK}{_PORT}_PROTO")
_URL = re.compile(r"(?:tcp|udp|sctp)://(.+):([0-9]{1,5})")


def read(environ: Mapping[str, str], own: Collection[str] = ()) -> dict[str, str]:
    """Return `environ` with each setting of ours under its own name, no blanks or line ends around its value.

    Service links are left out, and tolerant names are replaced; those that stand for no setting of this build stay, and
    `ignored_names` lists them. A secret that comes from a file often ends in a line feed, which no setting means.

    Args:
        own: names of settings that are known besides NAMES.

    Raises:
        SettingNameError: a `PLANWIRE_` name is no setting and no service link (the first one alphabetically), or a
            setting has two different values.
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
    """Return the tolerant names in `environ` that stand for no setting of this build."""
    tolerant = (name for name in environ if name.startswith(TOLERANT + PREFIX))
    return sorted(name for name in tolerant if name.removeprefix(TOLERANT) not in NAMES)


def mixed_versions() -> dict[str, str]:
    """Return the versions of `planwire` and `planwire-client` where both are installed and differ, else nothing.

    Both bring `planwire_client`; its files are then those of the one that was installed last.
    """
    try:
        found = {name: version(name) for name in ("planwire", "planwire-client")}
    except PackageNotFoundError:
        return {}
    return found if len(set(found.values())) > 1 else {}


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes (or Docker) has set this variable for a Service called `planwire` or `planwire-...`.

    Name and form of the value have to fit. A setting of ours whose name fits is taken for a link only by what no
    setting can be: `PROTOCOL://ADDRESS:PORT`.
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
