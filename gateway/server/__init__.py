"""The web processes: `python -m gateway.server`. Everything that overrides uvicorn is here.

May import: all of `gateway` but `cli` and `dev`.

Written against uvicorn 0.54 and pinned to it; `tests/unit/gateway/server/test_uvicorn.py` fails on another minor
version. What is overridden, and why:

`protocols.FirstBytesProtocol` replaces `Config.http_protocol_class`.
    A connection starts as a `WebSocket` and becomes HTTP only if its first bytes are not an opening handshake. uvicorn
    would create an HTTP protocol, a parser and a request for each socket and discard them, at a fifth of the cost of
    connecting.
`protocols.LimitedHttpProtocol` extends `HttpToolsProtocol`.
    `connection_opened` instead of `connection_made`: without the system call for the local address. `data_received`:
    at most HEAD_MAX_BYTES of head (uvicorn has no limit), errors in the API's form, and HTTP/1.1 answers to requests
    for another protocol (h2c).
    `on_headers_complete`: one Host header. `_should_upgrade`: not for HTTP/1.0. `connection_lost`, `_start_asgi_task`:
    a disconnect reaches pipelined requests at once. `pause_writing`, `resume_writing`, `on_response_complete`: set what
    is expected from the client next, for the deadlines of `connections`.
    Uses `_unset_keepalive_if_required`, `parser`, `cycle`, `flow`, `headers`, `url`, `scope`.
`server.Server` extends `uvicorn.Server`.
    `startup`: the two classes above, the sockets' send buffer, a start failure as one line. `capture_signals`: SIGHUP
    stops too, and signals are not re-raised after a clean shutdown (`_captured_signals`). `shutdown`: the drain.
`supervisor.Supervisor` extends `Multiprocess`.
    `restart_all`, and `should_exit`, which a signal in `signal_queue` sets: SIGTERM interrupts a replacement of
    workers. `keep_subprocess_alive`: the supervisor ends if no worker can start. `supervisor.Worker` extends
    `multiprocess.Process` (`target`, `server`, the reason of a failed start). It replaces that class by assignment,
    because uvicorn's supervisor has no other way to use a custom server.
"""
