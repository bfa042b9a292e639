"""A socket is held back for a bounded time, and gets what is new in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.console import fault_injection
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


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Callable[[], None]]]:
    """Return the timers that were set, each with its delay; none runs by itself."""
    found: list[tuple[float, Callable[[], None]]] = []

    def call_later(after_s: float, call: Callable[..., None], *arguments: Any) -> None:
        found.append((after_s, partial(call, *arguments)))

    loop = SimpleNamespace(call_later=call_later)
    monkeypatch.setattr(fault_injection, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return found


def injected() -> tuple[FaultInjection, SessionSocket, list[str]]:
    socket: Any = Socket()
    return FaultInjection(), socket, socket.calls


def test_a_frozen_socket_thaws_when_its_time_is_up(timers: list[tuple[float, Callable[[], None]]]) -> None:
    faults, socket, calls = injected()
    faults.inject(socket, {"action": "freeze", "seconds": 0})
    assert (faults.is_held_back(socket), calls, timers[0][0]) == (True, ["hold"], 0.0)
    timers.pop()[1]()
    assert (faults.is_held_back(socket), calls, timers) == (False, ["hold", "resume"], [])


def test_a_delayed_socket_gets_what_is_new_now_and_then(timers: list[tuple[float, Callable[[], None]]]) -> None:
    faults, socket, calls = injected()
    for _ in range(2):
        faults.inject(socket, {"action": "delay", "seconds": 60, "delay_ms": 200})
    assert [after_s for after_s, _ in timers] == [0.2], "one timer per socket"
    timers.pop()[1]()
    assert calls == ["hold", "hold", "resume", "hold"]
    assert [after_s for after_s, _ in timers] == [0.2]
    cast(Any, socket).transport.closing = True
    timers.pop()[1]()
    assert not faults.is_held_back(socket)
    assert timers == []


def test_the_time_is_bounded_whatever_a_message_says(timers: list[tuple[float, Callable[[], None]]]) -> None:
    faults, socket, _ = injected()
    faults.inject(socket, {"action": "freeze", "seconds": 10**9})
    assert timers[0][0] == fault_injection.SECONDS_MAX


def test_a_dropped_connection_is_aborted() -> None:
    faults, socket, calls = injected()
    faults.inject(socket, {"action": "drop"})
    assert calls == ["abort"]
