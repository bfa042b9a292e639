"""`python -m gateway.server`: one or more web processes on one port, with a door that keeps slow and large heads out.

uvicorn does the serving; here are its HTTP class with limits on request heads, what stands before that and knows an
opening handshake when it sees one, and its server with a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import cached_property
from types import FrameType
from typing import Any, cast

import httptools
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr, is_ssl
from uvicorn.server import ServerState
from uvicorn.supervisors import multiprocess

from gateway import app
from gateway.app import StartError
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.node import Node
from gateway.server import descriptors
from gateway.server.connections import HttpConnections, Limits, Wait
from gateway.server.listening import address_text, listen
from gateway.server.reload import Reloading
from gateway.settings import GatewaySettings, SettingsError
from gateway.ws.connection import SessionSocket, WebSocket, refusal
from sync.process import environment, logs, parent_watch
from sync.store.checks.inspection import UnfitStoreError, check_start
from sync.store.checks.schema import SchemaError
from sync.store.redis.connect import connect

log = structlog.get_logger("gateway.server")

HEAD_MAX_BYTES = 16_384
"""Request line and headers together; beyond: 431."""

BACKLOG = 4096

WORKER_ANSWER_S = 30
"""How long a worker may leave the supervisor without an answer, its start included, until it is killed as hung. In
the five seconds that uvicorn allows, a busy machine or a small one does not start one: it would never serve."""

COLLECT_AFTER = (20_000, 20, 50)
"""Objects made, net, until the garbage collector looks at the newest; collections of each generation until the next."""

EXIT_DIED = 1
"""Exit status of a web process that stopped because one of its tasks failed."""

EXIT_SETTINGS = 2
"""The exit status where a setting, or what it names, cannot be used."""

RETRY_S = 30.0
"""How long the supervisor waits before it tries once more to start a worker beside others that serve."""

WORKERS_MAX = 256
"""The most that WEB_CONCURRENCY may ask for: more is a mistake, not a wish."""


_HANDSHAKE = re.compile(rb"GET /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade: *websocket\r\n", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection: *(?:[a-z-]+, *)*upgrade(?:, *[a-z-]+)*\r\n", re.IGNORECASE)


class FirstBytesProtocol:
    """Takes new connections until their first bytes tell what they are: one for a server, called for each.

    A connection's protocol is a socket from the start. What sends an opening handshake, whole and in plain form, stays
    one: uvicorn's HTTP object, its parser and the request they make would be thrown away at once, and were a fifth of
    what connecting costs; and a transport that changes its protocol leaves epoll and enters it again. Everything else,
    wrong or merely rare, is the `LimitedHttpProtocol`'s.

    """

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state

    @cached_property
    def connections(self) -> HttpConnections:
        """All HTTP connections of the server. First used after the app has started, because the app sets the limits."""
        node = self._app_state.get("node")
        return node.connections if isinstance(node, Node) else HttpConnections(Limits(), Metrics())

    def __call__(self, **_: object) -> WebSocket:
        """Return the protocol of a new connection."""
        socket_class = cast("type[WebSocket]", self._config.ws_protocol_class)
        return socket_class(self._config, self._server_state, self._app_state, self)

    def first_bytes_received(self, socket: WebSocket, transport: asyncio.Transport, data: bytes) -> None:
        """Let the socket answer an opening handshake, and the door look at any other first bytes."""
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end < HEAD_MAX_BYTES and is_handshake(data[:end]):
            socket.handshake(data[:end])
            if end < len(data) and not transport.is_closing():
                socket.data_received(data[end:])
            return
        self._server_state.connections.discard(socket)
        door = LimitedHttpProtocol(self._config, self._server_state, self._app_state)
        door.connection_opened(transport, self)
        self.connections.replace(socket, door)
        transport.set_protocol(door)
        door.data_received(data)


def is_handshake(head: bytes) -> bool:
    """Whether a whole request head is an opening handshake in the form that clients send (RFC 6455 section 4.1).

    What is wrong with one of that form is found by the socket. Any other form is not refused: it is parsed in full.
    """
    return bool(_HANDSHAKE.fullmatch(head) and _UPGRADE.search(head) and _CONNECTION.search(head))


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds on what a client may send, and for how long, before it is understood."""

    _first_bytes: FirstBytesProtocol

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._is_all_head = False
        self._fault = ""
        self._served: RequestResponseCycle | None = None

    def connection_opened(self, transport: asyncio.Transport, first_bytes: FirstBytesProtocol) -> None:
        """Take over a registered connection."""
        self._first_bytes = first_bytes
        self.connection_made(transport)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the transport.

        As uvicorn's, but for the local address, which nothing here reads and which costs a system call and a socket
        object per connection.
        """
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.client = get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._first_bytes.connections.remove(self)
        self._tell_served()
        super().connection_lost(exc)

    def abort(self) -> None:
        """End the connection at once and discard unsent data."""
        self._tell_served()
        self.transport.abort()

    def _tell_served(self) -> None:
        """Mark the request being served as disconnected, so that its handler writes nothing more.

        uvicorn marks only the newest of several pipelined requests. It also does so one turn of the event loop after
        the transport has been closed, and a write in between raises.
        """
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    # What is expected from the client next.

    def _note_wait(self) -> None:
        self._first_bytes.connections.waits(self, self._wait())

    def _wait(self) -> Wait | None:
        is_answered = self._is_idle()
        if self.flow.write_paused:
            return Wait.READ
        if self._in_head:
            return Wait.HEAD
        if self._in_body:
            return Wait.REST if is_answered else Wait.BODY
        return Wait.NEXT if is_answered else None

    def pause_writing(self) -> None:
        """Expect the client to read."""
        super().pause_writing()
        self._note_wait()

    def resume_writing(self) -> None:
        """Continue after the client has read."""
        super().resume_writing()
        self._note_wait()

    def on_response_complete(self) -> None:
        """Expect the rest of the request, or the next one."""
        super().on_response_complete()
        self._note_wait()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, and hand what follows an upgrade to the WebSocket."""
        self._unset_keepalive_if_required()
        if not self._in_body and self._is_idle():
            self._in_head = True
        while data and not self.transport.is_closing():
            size = HEAD_MAX_BYTES - self._head_bytes
            piece, data = data[:size], data[size:]
            self._is_all_head = not self._in_body
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data = piece[upgrade.args[0] :] + data
                if self._should_upgrade():
                    self._upgrade(data)
                    return
                if self.parser.get_method() == b"CONNECT":
                    self._refuse_head(400, "bad_request", "this is no proxy: CONNECT is not served")
                    return
                data = self._without_upgrade() + data
            except httptools.HttpParserError:
                self._refuse_head(400, "bad_request", self._fault or "this is no HTTP request")
            else:
                if self._is_all_head:
                    self._head_bytes += len(piece)
                    if self._head_bytes >= HEAD_MAX_BYTES:
                        detail = f"request line and headers may have {HEAD_MAX_BYTES - 1} bytes together"
                        self._refuse_head(431, "head_too_large", detail)
        self._note_wait()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _upgrade(self, rest: bytes) -> None:
        if not self._is_idle():
            # The answer under way would end up among the frames.
            self.transport.close()
            return
        transport, first_bytes = self.transport, self._first_bytes
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        socket_class = cast("type[WebSocket]", self.ws_protocol_class)
        socket = socket_class(self.config, self.server_state, self.app_state, first_bytes)
        self.connections.discard(self)
        first_bytes.connections.replace(self, socket)
        socket.take_over(transport)
        transport.set_protocol(socket)
        socket.handshake(b"".join([*head, b"\r\n"]))
        if rest and not transport.is_closing():
            socket.data_received(rest)
        # The parser and this object hold each other: let go, they are freed now, not when the collector comes by.
        self.parser = None  # type: ignore[assignment]

    def _without_upgrade(self) -> bytes:
        """Return the head just read without its wish for another protocol.

        Any but WebSocket is declined by answering in HTTP/1.1 (RFC 9110 section 7.8). The parser takes the end of such
        a head for the end of HTTP, body or not, so the request is read again. Java's client asks for h2c every time.
        """
        method, version = self.parser.get_method(), self.scope["http_version"].encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)  # the old one is done for good after a "close"
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        return b"\r\n".join([*lines, b"", b""])

    def _refuse_head(self, status: int, code: str, detail: str) -> None:
        if self._is_idle():  # otherwise it would be written into the middle of another answer
            self.transport.write(refusal(status, code, detail))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """End the head.

        Raises:
            ValueError: the version is not served, or there is not exactly one Host.
        """
        self._head_bytes = 0
        self._in_head = False
        self._in_body = True
        self._is_all_head = False
        self._fault = self._find_fault()
        if self._fault:
            raise ValueError(self._fault)  # the parser stops and raises HttpParserError
        if self._is_declined():
            self.scope["http_version"] = self.parser.get_http_version()
        else:
            super().on_headers_complete()

    def _find_fault(self) -> str:
        """Return the fault of a head that the parser accepts, or an empty string."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return f"HTTP/{version} is not served here; send HTTP/1.1"
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and version == "1.1"):
            return "an HTTP/1.1 request has one Host header"  # RFC 9112 section 3.2
        return ""

    def on_message_complete(self) -> None:
        """Expect another head."""
        if not self._is_declined():
            super().on_message_complete()
        self._in_body = False
        self._is_all_head = False

    def _is_declined(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        # An HTTP/1.0 request has no upgrade (RFC 9110 section 7.8).
        return bool(super()._should_upgrade()) and self.parser.get_http_version() == "1.1"


class Server(uvicorn.Server):
    """uvicorn's server, which first lets the sockets go gently."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, behind the porch, and with the send buffer that every accepted socket inherits.

        Without a bound the kernel takes megabytes before a socket counts as slow, and a slow tab is shown states long
        gone. Set here it costs no system call per connection.

        Raises:
            StartError: the app cannot start, for a reason that an operator can do something about.
        """
        first_bytes = FirstBytesProtocol(self.config, self.server_state, self.lifespan.state)
        self.config.http_protocol_class = first_bytes  # type: ignore[assignment]
        try:
            await super().startup(sockets)
        except SystemExit as end:
            reason = self.lifespan.state.get("failure")
            if reason is None:
                raise
            raise StartError(str(reason)) from end
        if sockets is not None:  # else uvicorn says so
            log.info("listening", urls=[f"http://{address_text(one.getsockname())}" for one in sockets])
        first_bytes.connections.start()
        self._connections = first_bytes.connections
        node = self.lifespan.state.get("node")
        if isinstance(node, Node):
            for listener in (one for server in self.servers for one in server.sockets):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, node.settings.send_buffer_bytes)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take a signal to stop for done once it was: uvicorn raises it again at the end, as if it had gone wrong."""
        with super().capture_signals(), _hangup_as(self.handle_exit):
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, drain, then do what uvicorn does."""
        for server in self.servers:
            server.close()
        node = self.lifespan.state.get("node")
        if isinstance(node, Node):
            await node.registry.drain(node.settings.drain_s)
        await super().shutdown(sockets)
        self._connections.stop()


@contextlib.contextmanager
def _hangup_as(handler: Callable[[int, FrameType | None], None]) -> Generator[None, None, None]:
    """Handle SIGHUP, unless it is ignored: under `nohup`, and in workers, whose supervisor handles it."""
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


class Worker(multiprocess.Process):
    """A web process of several on one port, with our server in it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        # Noted here, in the supervisor: it may be gone before the worker could ask who its parent is.
        self._supervisor = os.getpid()
        self._reasons, self._reason_sink = multiprocessing.Pipe(duplex=False)
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. What `main` prepares in its own process is prepared here again, in the worker's."""
        try:
            settings = GatewaySettings.from_env(os.environ)
            logs.configure(settings.log_level, settings.log_format)
            # The supervisor ends its workers, but not when it is killed.
            parent_watch.watch(self._supervisor)
            if hasattr(signal, "SIGHUP"):
                # A closed terminal sends it to all processes of the group; the supervisor replaces its workers itself.
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _spare_collector(self.config)
            super().target(sockets)
            _exit_if_died(self.server)
        except GatewayError as error:
            self._reason_sink.send(str(error))
            sys.exit(EXIT_SETTINGS)

    @property
    def has_failed_to_start(self) -> bool:
        """Whether it has ended without having served."""
        return self.exitcode in (EXIT_SETTINGS, STARTUP_FAILURE)

    def reason(self) -> str:
        """Return why it failed to start, in one line; empty where its log says so."""
        with contextlib.suppress(EOFError, OSError):
            if self._reasons.poll():
                return str(self._reasons.recv())
        return ""

    @property
    def server(self) -> uvicorn.Server:
        """The worker's server."""
        if self._server is None:
            self._server = Server(self.config)
        return self._server


class Supervisor(Reloading):
    """uvicorn's supervisor, which ends where no worker can start.

    Where others serve, one that cannot start is tried again every RETRY_S: a setting that was broken meanwhile does not
    end what still works with the old one.

    Attributes:
        status: the exit status of the whole.
    """

    status = 0

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._retries: list[float] = []

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have ended or hang; end where one could not start and no other serves."""
        for due in [at for at in self._retries if at <= time.monotonic()]:
            self._retries.remove(due)
            self.processes.append(self._started())
        for process in list(self.processes):
            if self.should_exit.is_set():
                return
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            # Asked only now: a worker may end while it is asked for a sign of life.
            if isinstance(process, Worker) and process.has_failed_to_start:
                self.processes.remove(process)
                self._give_up_or_retry(process)
            else:
                log.error("worker_died", pid=process.pid, exit_code=process.exitcode)
                self.processes[self.processes.index(process)] = self._started()

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _give_up_or_retry(self, failed: Worker) -> None:
        reason = failed.reason()
        if any(other.exitcode is None and other.is_ready() for other in self.processes):
            log.error("worker_not_started", reason=reason, retry_s=RETRY_S)
            self._retries.append(time.monotonic() + RETRY_S)
            return
        if reason:
            print(f"planwire: {reason}", file=sys.stderr)
        self.status = failed.exitcode or STARTUP_FAILURE
        self.should_exit.set()


def configuration(
    settings: GatewaySettings, *, workers: int = 1, factory: Callable[[], ASGIApp] | str = "gateway.app:create_app"
) -> uvicorn.Config:
    """Return uvicorn's configuration of a web process."""
    return uvicorn.Config(
        factory,
        factory=True,
        host=settings.host,
        port=settings.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=LimitedHttpProtocol,
        ws=SessionSocket,
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # a float works too
        timeout_graceful_shutdown=5,
        timeout_worker_healthcheck=WORKER_ANSWER_S,
    )


def _exit_if_died(server: uvicorn.Server) -> None:
    """Exit with EXIT_DIED if one of the process's tasks failed, so that its supervisor starts it again."""
    node = server.lifespan.state.get("node") if server.started else None
    if isinstance(node, Node) and node.has_died:
        sys.exit(EXIT_DIED)


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= WORKERS_MAX:
        raise SettingsError([f"WEB_CONCURRENCY: must be a number of processes, 1 to {WORKERS_MAX}"])
    return int(text)


def _spare_collector(config: uvicorn.Config) -> None:
    """Keep the garbage collector from walking what stays: every open socket is a dozen objects that hold no cycle.

    By default a tenth of a storm of connects goes into looking for garbage among them.
    """
    config.load()
    gc.set_threshold(*COLLECT_AFTER)
    gc.collect()
    gc.freeze()


async def _check_store(settings: GatewaySettings) -> None:
    """Return when the store may be used, or is away; the embedded one always may.

    Raises:
        StoreUrlError: its URL cannot be used.
        UnfitStoreError: it would lose what it is given.
        SchemaError: its data needs a newer build.
    """
    if url := settings.redis_url.get_secret_value():
        store = connect(url, prefix=settings.prefix).store
        try:
            await check_start(store, dev=settings.dev)
        finally:
            await store.aclose()


def main() -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP.

    Exit 2 with one line when the configuration is wrong, EXIT_DIED when a task of the process had failed.
    """
    try:
        settings = GatewaySettings.from_env(os.environ)
        workers = _workers(environment.value(os.environ, "WEB_CONCURRENCY", "1"))
        descriptors.raise_limit()
        app.check(os.environ)
        asyncio.run(_check_store(settings))
        sockets = listen(settings.host, settings.port)
        logs.configure(settings.log_level, settings.log_format)
        if settings.dev_insecure_host:
            log.error("INSECURE: development mode may be reached from other machines", host=settings.host)
        if settings.watch_pid:
            parent_watch.watch(settings.watch_pid)
        _serve(configuration(settings, workers=workers), sockets)
    except (GatewayError, UnfitStoreError, SchemaError) as error:
        print(f"planwire: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)


def _serve(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    if config.workers == 1:
        _spare_collector(config)
        server = Server(config)
        server.run(sockets)
        _exit_if_died(server)
        return
    # uvicorn's supervisor makes its processes by this name; it has no other seam for a server of one's own.
    multiprocess.Process = Worker  # type: ignore[misc]
    supervisor = Supervisor(config, sockets)
    supervisor.run()
    if supervisor.status:
        sys.exit(supervisor.status)
