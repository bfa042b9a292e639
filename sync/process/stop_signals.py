"""The signals that stop a process cleanly."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGINT, SIGTERM and SIGHUP; without SIGHUP if it is ignored, as under `nohup`.

    A terminal sends SIGHUP when it is closed. The default action ends the process immediately, without a clean stop.
    """
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return tuple(found)
