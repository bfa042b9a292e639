"""Tells the replies of a server that does not serve a primary's commands now. Pure.

A managed store fails over behind one DNS name, and connections made before stay at the old primary. On such a reply a
client drops its connections, so that the next attempt looks the name up again.
"""

from __future__ import annotations

WRONG_SERVER_CODES = frozenset(
    ("READONLY", "MASTERDOWN", "LOADING", "UNBLOCKED", "NOREPLICAS", "NOAUTH", "REDIRECT", "FAILOVER")
)
"""Error codes of such a server. The command has not run.

READONLY, MASTERDOWN: a replica. LOADING: it loads its data, as a demoted primary does that fetches the new one's.
UNBLOCKED: it was demoted while a command waited. NOREPLICAS: it is cut off from its replicas; one may have taken over.
NOAUTH: it has no login, as behind a proxy that has moved to another server.
"""


def wrong_server_code(error: object) -> str:
    """Return the code by which a server says that it is not the one to ask; "" for every other error or reply."""
    if not isinstance(error, BaseException):
        return ""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if code in WRONG_SERVER_CODES:
        return str(code)
    # Redis before 7 wraps what a script's command was answered: "Error running script (...): -READONLY You can't ...".
    return "READONLY" if ": -READONLY " in str(error) else ""
