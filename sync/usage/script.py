"""The script that counts calls about a tenant's usage, and what it needs to know of the tenant's keys."""

from __future__ import annotations

import hashlib
from importlib import resources

from sync.store.command_pipeline import Script

KEYS = ("meters", "keys", "order", "holds", "expiry", "calls", "periods", "crossings", "adjustments")
"""The keys of a tenant's usage, in the script's order."""

HOLD_KEY = "hold "
"""Begins the key that the script remembers of a reservation."""

_PARTS = ("usage_meters", "usage_units", "usage_terms", "usage_state", "usage_call")


def load() -> Script:
    """Return the script: the parts are the body of a function that counts one call."""
    folder = resources.files(__package__).joinpath("scripts")
    one_call = "".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in _PARTS)
    source = f"local function count(ARGV)\n{one_call}end\n" + folder.joinpath("usage_run.lua").read_text("utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
