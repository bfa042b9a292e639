"""What `gateway.server` overrides and uses of uvicorn exists, in the minor version that it was written against."""

from __future__ import annotations

import inspect
import re

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors import multiprocess

import gateway.server
from gateway.server.protocols import LimitedHttpProtocol
from gateway.server.server import Server
from gateway.server.supervisor import Supervisor, Worker

OWN = {
    LimitedHttpProtocol: {"connection_opened", "abort"},
    Server: {"node"},
    Supervisor: set[str](),
    Worker: {"has_failed_to_start", "reason"},
}
"""Public names that are ours; every other one overrides uvicorn's."""


def test_the_minor_version_is_the_one_that_the_overrides_were_written_against() -> None:
    """Another one: compare what is listed in `gateway.server` with uvicorn's source before raising the pin."""
    written = re.search(r"uvicorn (\d+\.\d+) ", gateway.server.__doc__ or "")
    assert written is not None
    assert uvicorn.__version__.rpartition(".")[0] == written[1]


@pytest.mark.parametrize("ours", OWN, ids=lambda ours: ours.__name__)
def test_every_override_still_overrides_something_and_is_listed(ours: type) -> None:
    defined = {
        name
        for name, value in vars(ours).items()
        if not name.startswith("_") and (callable(value) or inspect.isdatadescriptor(value))
    }
    assert {name for name in defined - OWN[ours] if not any(name in vars(base) for base in ours.__mro__[1:])} == set()
    assert ours.__name__ in (gateway.server.__doc__ or "")


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (
            HttpToolsProtocol,
            ["_unset_keepalive_if_required", "_should_upgrade", "_start_asgi_task", "on_message_begin"],
        ),
        (RequestResponseCycle, ["run_asgi"]),
        (FlowControl, ["pause_writing", "resume_writing"]),
        (uvicorn.Server, ["capture_signals", "handle_exit", "startup", "shutdown"]),
        (multiprocess.Multiprocess, ["restart_all", "keep_subprocess_alive", "handle_signals"]),
        (multiprocess.Process, ["target", "wait_until_ready", "is_ready", "exitcode"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_is_used_of_it_is_there(of: type, names: list[str]) -> None:
    assert [name for name in names if not hasattr(of, name)] == []
    attributes = {uvicorn.Server: ["_captured_signals"], multiprocess.Multiprocess: ["should_exit", "signal_queue"]}
    assert [name for name in attributes.get(of, []) if f"self.{name}" not in inspect.getsource(of)] == []
