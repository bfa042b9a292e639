"""Tells the replies of a server that is not the one to ask: a primary that was demoted, or that still loads its data.

A managed store fails over behind one DNS name, and connections made before stay at the old primary. On such a reply a
transport drops its idle connections, so that the next attempt looks the name up again.
"""

from __future__ import annotations

WRONG_SERVER_CODES = frozenset(
    ("READONLY", "MASTERDOWN", "LOADING", "UNBLOCKED", "NOREPLICAS", "NOAUTH", "REDIRECT", "FAILOVER")
)
"""The same as the server's in sync/store/redis/failover.py. The command has not run."""


def is_wrong_server(reply: object) -> bool:
    """Return whether the reply, or the error raised for it, says that another server is to be asked."""
    if not isinstance(reply, Exception):
        return False
    code = getattr(reply, "status_code", None) or str(reply).partition(" ")[0]
    # Redis before 7 wraps what a command of a script was answered.
    return code in WRONG_SERVER_CODES or ": -READONLY " in str(reply)
