"""How many files this process may have open, and what of its limits on connections that allows."""

from __future__ import annotations

import contextlib
import sys

import structlog

from gateway.settings import GatewaySettings

OWN_MAX = 96
"""Descriptors kept for what is no client: the store's connections, listeners, the log, calls to providers."""

OWN_SHARE = 4
"""Where there are few, a fourth of them is kept instead."""

log = structlog.get_logger("gateway.descriptors")


def raise_limit() -> None:
    """Raise the soft limit on open files to the hard one: the usual 1,024 are for programs that use `select`."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS has an unlimited hard limit, and a lower one in the kernel.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int | None:
    """Return the soft limit on open files; None where there is none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def fit(settings: GatewaySettings) -> GatewaySettings:
    """Return the settings, with lower limits on connections where they leave no room for others; log which.

    A fourth of what clients may have is for HTTP connections, the rest for sockets. Of the connections an address may
    have half, and event streams, which are not dropped for others, half; of an address's, those of a subject half. So
    nobody can take all that readiness checks and new tabs need.
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
    """Return the limits that are too high for so many descriptors, by the setting's field, as they must be. Pure."""
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
