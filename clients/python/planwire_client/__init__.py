"""Planwire for backends: publish plan state, read it locally, and check that it is current.

It exports the names of `planwire_client.api` and imports them on first use, because servers import only
`planwire_client.core`, which needs neither HTTP nor WebSockets.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planwire_client.api import *  # noqa: F403 - all that is public

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    public = {one: value for one, value in vars(import_module("planwire_client.api")).items() if one[0] != "_"}
    if name == "__all__":
        return list(public)
    if name not in public:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return public[name]
