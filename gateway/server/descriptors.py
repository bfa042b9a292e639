"""The limit on open files, and limits on connections that fit into it."""

from __future__ import annotations

import contextlib
import sys

import structlog

from gateway.settings import GatewaySettings

if sys.platform != "win32":
    import resource

OWN_MAX = 96
"""Descriptors reserved for the process itself: connections to the store and to providers, listeners, the log."""

OWN_SHARE = 4
"""With few descriptors the reserve is one in OWN_SHARE instead."""

log = structlog.get_logger("gateway.server.descriptors")


def raise_limit() -> None:
    """Raise the soft limit on open files to the hard one. The usual soft limit of 1,024 exists for `select`."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # On macOS the hard limit may be unlimited while the kernel accepts only a lower value.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int | None:
    """Return the soft limit on open files; None where there is none."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def fit(settings: GatewaySettings) -> GatewaySettings:
    """Return the settings with limits on connections lowered where necessary; log each lowered limit.

    A quarter of the descriptors for clients is for HTTP connections, the rest for sockets. One address may have half
    of the HTTP connections. Streams may have half of them too, and one subject's streams half of an address's share,
    because streams are never closed to make room. Readiness checks and new tabs therefore always find room.
    """
    descriptors = limit()
    if descriptors is None:
        return settings
    fitting = fitted(settings, descriptors)
    if fitting:
        hint = "raise the limit on open files (ulimit -n, LimitNOFILE=, nofile) or PLANWIRE_CONNECTIONS_MAX"
        log.warning("limits_lowered", descriptors=descriptors, hint=hint, **fitting)
    return settings.model_copy(update=fitting)


def fitted(settings: GatewaySettings, descriptors: int) -> dict[str, int]:
    """Return the limits that must be lowered for this number of descriptors, by settings field. Pure."""
    for_clients = descriptors - min(OWN_MAX, descriptors // OWN_SHARE)
    connections = max(1, min(settings.connections_max, for_clients // 4))
    sockets = max(1, min(settings.sockets_max, for_clients - connections))
    per_address = min(settings.connections_per_address, max(1, connections // 2))
    limits = {
        "connections_max": connections,
        "sockets_max": sockets,
        "connections_per_address": per_address,
        "streams_max": min(settings.streams_max, max(1, connections // 2)),
        "streams_per_subject": min(settings.streams_per_subject, max(1, per_address // 2)),
    }
    return {name: value for name, value in limits.items() if value < getattr(settings, name)}
