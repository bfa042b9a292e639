"""A socket is held back for a bounded time, and gets what is new in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from gateway.console.fault_injection import FaultInjection
from gateway.ws.session_socket import SessionSocket


class Transport:
    def __init__(self) -> None:
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing


class Socket:
    """A socket that notes what is done to it."""

    def __init__(self) -> None:
        self.transport: Transport | None = Transport()
        self.calls: list[str] = []

    def hold_back(self) -> None:
        self.calls.append("hold")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")

    def buffered_bytes(self) -> int:
        return 0


def injected() -> tuple[FaultInjection, SessionSocket, list[str], list[tuple[float, Callable[[], None]]]]:
    timers: list[tuple[float, Callable[[], None]]] = []
    socket: Any = Socket()
    return FaultInjection(lambda after_s, call: timers.append((after_s, call))), socket, socket.calls, timers


def test_a_frozen_socket_thaws_when_its_time_is_up() -> None:
    faults, socket, calls, timers = injected()
    faults.freeze(socket, 0.0)
    assert (faults.is_held_back(socket), calls, timers[0][0]) == (True, ["hold"], 0.0)
    timers.pop()[1]()
    assert (faults.is_held_back(socket), calls, timers) == (False, ["hold", "resume"], [])


def test_a_delayed_socket_gets_what_is_new_now_and_then() -> None:
    faults, socket, calls, timers = injected()
    faults.delay(socket, 60, 0.2)
    faults.delay(socket, 60, 0.2)
    assert [after_s for after_s, _ in timers] == [0.2], "one timer per socket"
    timers.pop()[1]()
    assert calls == ["hold", "hold", "resume", "hold"]
    assert [after_s for after_s, _ in timers] == [0.2]
    cast(Any, socket).transport.closing = True
    timers.pop()[1]()
    assert not faults.is_held_back(socket)
    assert timers == []


def test_a_dropped_connection_is_aborted() -> None:
    faults, socket, calls, _ = injected()
    faults.drop(socket)
    assert calls == ["abort"]
