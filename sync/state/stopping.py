"""The signals that end a process in order."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGINT, SIGTERM and, unless it is ignored, SIGHUP.

    A closed terminal sends SIGHUP, and some service managers do to have a configuration read again. By default it ends
    a process at once, whatever that is doing. `nohup` starts processes that ignore it, and they are to go on doing so.
    """
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return tuple(found)
