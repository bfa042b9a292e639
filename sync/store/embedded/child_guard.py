"""Runs one program so that it ends with its starter. It runs as a script, by path, and imports only standard modules.

`embedded` starts the store's server through it, so that an owner killed by SIGKILL leaves no orphan.
On Linux the kernel ends the program (PR_SET_PDEATHSIG, which survives the exec: the program keeps this process's id).
On other systems this process stays and checks whether it is still the starter's child. If this process is killed too,
the server stays alone. It still has the store's lock, and the next process attaches to it.

    python -I -S child_guard.py STARTER_PID SIGNAL KERNEL_HELPS PROGRAM [ARGUMENT...]
"""

from __future__ import annotations

import os
import signal
import sys
import time

KERNEL_HELPS: bool = sys.platform.startswith("linux")
"""Whether the kernel can end a process with its parent."""
PR_SET_PDEATHSIG = 1
POLL_S = 0.05
STOP_TIMEOUT_S = 8.0
"""Time that the program has to end after the signal; then it is killed (only without the kernel's help)."""


def command(program: str, *arguments: str, death_signal: int) -> list[str]:
    """Return the argument list that runs `program` so that it ends with the calling process.

    `death_signal`: the signal that the program gets when the caller dies.
    """
    numbers = (os.getpid(), int(death_signal), int(KERNEL_HELPS))
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), *map(str, numbers), program, *arguments]


def main(argv: list[str]) -> int:
    """Run the program and return its exit status. With the kernel's help this process becomes the program (exec)."""
    starter, death_signal, kernel_helps = (int(text) for text in argv[:3])
    program = argv[3:]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the program would inherit that
    if not kernel_helps:
        return _watch(program, starter, death_signal)
    _die_with_parent(death_signal)
    if os.getppid() != starter:
        return 0  # the starter ended before the call above
    os.execv(program[0], program)  # noqa: S606 - the program is what the caller asked for


def _die_with_parent(death_signal: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _watch(program: list[str], starter: int, death_signal: int) -> int:
    pid = os.posix_spawn(program[0], program, os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: _send(pid, received))
    kill_at: float | None = None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if kill_at is None and os.getppid() != starter:
            _send(pid, death_signal)
            kill_at = time.monotonic() + STOP_TIMEOUT_S
        if kill_at is not None and time.monotonic() > kill_at:
            _send(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
