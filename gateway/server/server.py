"""uvicorn's server with a drain, and with `FirstBytesProtocol` for new connections."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType

import structlog
import uvicorn

from gateway.app import StartError
from gateway.node import Node
from gateway.server.connections import HttpConnections
from gateway.server.listening import address_text
from gateway.server.protocols import FirstBytesProtocol

log = structlog.get_logger("gateway.server")


class Server(uvicorn.Server):
    """uvicorn's server with a drain: before it stops, it spreads the closing of sockets evenly over `drain_s`.

    Attributes:
        connections: the HTTP connections; set by `startup`.
    """

    connections: HttpConnections

    @property
    def node(self) -> Node:
        """The app's node. Available once the app has started."""
        node: Node = self.lifespan.state["node"]
        return node

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with `FirstBytesProtocol`, and limit the send buffer of accepted sockets.

        Without the limit the kernel buffers megabytes before a socket counts as slow, and a slow tab shows old states.
        Accepted sockets inherit the limit from the listener, so it costs no system call per connection.

        Raises:
            StartError: the app cannot start, for a reason that an operator can fix.
        """
        first_bytes = FirstBytesProtocol(self.config, self.server_state, self.lifespan.state)
        self.config.http_protocol_class = first_bytes  # type: ignore[assignment]
        try:
            await super().startup(sockets)
        except SystemExit as end:
            if reason := self.lifespan.state.get("failure"):
                raise StartError(str(reason)) from end
            raise
        if sockets is not None:  # otherwise uvicorn logs it
            log.info("listening", urls=[f"http://{address_text(one.getsockname())}" for one in sockets])
        self.connections = first_bytes.connections
        self.connections.start()
        for listener in (one for server in self.servers for one in server.sockets):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.node.settings.send_buffer_bytes)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Do not re-raise SIGTERM, SIGINT or SIGHUP after a clean shutdown (uvicorn would)."""
        with super().capture_signals(), _hangup_as(self.handle_exit):
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, drain, then run uvicorn's shutdown."""
        for server in self.servers:
            server.close()
        await self.node.registry.drain(self.node.settings.drain_s)
        await super().shutdown(sockets)
        self.connections.stop()


@contextlib.contextmanager
def _hangup_as(handler: Callable[[int, FrameType | None], None]) -> Generator[None, None, None]:
    """Handle SIGHUP with `handler`, unless it is ignored, as under `nohup` and in workers of a supervisor."""
    is_ours = (
        hasattr(signal, "SIGHUP")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
