"""The web processes: `python -m gateway.server`. Everything that overrides uvicorn is here.

May import: all of `gateway` but `cli` and `dev`.

Written against uvicorn 0.54 and pinned to it; `tests/unit/gateway/server/test_uvicorn.py` fails on another minor
version. What is overridden, and why:

`protocols.FirstBytesProtocol` stands in for `Config.http_protocol_class`.
    A connection is a `WebSocket` from its first byte, and only becomes HTTP if it is not an opening handshake. uvicorn
    would make an HTTP protocol, a parser and a request for each socket and throw them away: a fifth of connecting.
`protocols.LimitedHttpProtocol` extends `HttpToolsProtocol`.
    `connection_opened` instead of `connection_made`: no call for the local address. `data_received`: at most
    HEAD_MAX_BYTES of head (uvicorn has no limit), an answer in the API's error form, and requests for another protocol
    (h2c) answered in HTTP/1.1.
    `on_headers_complete`: one Host header. `_should_upgrade`: not for HTTP/1.0. `connection_lost`, `_start_asgi_task`:
    pipelined requests learn at once that their client has gone. `pause_writing`, `resume_writing`,
    `on_response_complete`: note what is expected from the client next, for the deadlines of `connections`.
    Uses `_unset_keepalive_if_required`, `parser`, `cycle`, `flow`, `headers`, `url`, `scope`.
`server.Server` extends `uvicorn.Server`.
    `startup`: the two classes above, the sockets' send buffer, a start failure as one line. `capture_signals`: SIGHUP
    stops too, and a signal that led to a clean stop is not raised again (`_captured_signals`). `shutdown`: the drain.
`supervisor.Supervisor` extends `Multiprocess`.
    `restart_all`, and `should_exit`, which a signal in `signal_queue` sets: SIGTERM interrupts a replacement of
    workers. `keep_subprocess_alive`: the whole ends if no worker can start. `supervisor.Worker` extends
    `multiprocess.Process` and replaces it by assignment, because uvicorn's supervisor has no other seam for a server of
    one's own: `target`, `server`, the reason of a failed start.
"""
