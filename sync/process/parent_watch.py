"""Ends this process when another one has ended: the processes of `make run` end with it, even if it is killed.

This process gets a SIGTERM, which stops it cleanly, and a SIGKILL if it still runs after GRACE_S.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

POLL_S = 0.2
"""Time between two checks of the process if the kernel cannot report its end (no pidfd)."""

GRACE_S = 10.0
"""Time between SIGTERM and SIGKILL."""


def watch(pid: int) -> None:
    """Send this process SIGTERM as soon as process `pid` has ended, or now if it has ended already; 0: never."""
    if pid:
        threading.Thread(target=_leave_after, args=(pid,), name=f"parent-watch-{pid}", daemon=True).start()


def wait_for(pid: int, timeout_s: float | None = None) -> bool:
    """Wait for the end of process `pid`. Return True if it has ended or does not exist, False after the timeout.

    A zombie (ended, but not collected by its parent yet) counts as ended.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # not Linux, or a kernel or sandbox without pidfd
        return _poll(pid, timeout_s)
    try:
        # poll() instead of select(): the descriptor may be above select's limit of 1,024.
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        return bool(waiter.poll(None if timeout_s is None else timeout_s * 1000))
    finally:
        os.close(descriptor)


def _poll(pid: int, timeout_s: float | None) -> bool:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's process
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def _leave_after(pid: int) -> None:
    wait_for(pid)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
