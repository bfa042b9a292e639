"""Which distributions brought the packages that run: `planwire` and `planwire-client` both bring `planwire_client`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def mixed_versions() -> dict[str, str]:
    """Return the versions of `planwire` and `planwire-client` where both are installed and differ, else nothing.

    The files of `planwire_client` are then those of the one that was installed last.
    """
    try:
        found = {name: version(name) for name in ("planwire", "planwire-client")}
    except PackageNotFoundError:
        return {}
    return found if len(set(found.values())) > 1 else {}
