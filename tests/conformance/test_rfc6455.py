"""What the gateway makes of a peer that keeps to RFC 6455 and RFC 7692, and of one that does not: byte by byte."""

from __future__ import annotations

import asyncio
import gc
import struct
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.frames import Frame

from gateway.metrics import CLOSE_CODES, OTHER
from gateway.ws import connection, registry
from gateway.ws.frames import FrameParser
from tests.support.gateway import Running, environment, run_gateway
from tests.support.servers import start_valkey
from tests.support.wait import until
from tests.support.wire import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONT,
    DEFLATE,
    KEY,
    PING,
    PONG,
    TEXT,
    deflated,
    dial,
    encode,
    greet,
    head,
    hello,
    shake,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 65_536
WELL_AFTER_S = 10.0
"""Much later than CLOSE_TIMEOUT_S: what has not ended by then does not end."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Running]:
    """One gateway for the module: its tests share nothing but it."""
    with start_valkey() as server:
        async with run_gateway(environment(server.url, ALLOWED_ORIGINS="https://app.example.com")) as running:
            yield running


async def gone(running: Running) -> None:
    await until(lambda: not running.node.registry.sockets)


# The opening handshake (section 4).


async def test_the_accept_key_is_the_one_of_the_rfc(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(head({"Sec-WebSocket-Key": KEY}))
        answer = await wire.answer()
    assert answer.status == 101
    assert answer.headers["sec-websocket-accept"] == ACCEPT
    assert answer.headers["sec-websocket-protocol"] == "planwire.v1"
    assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade")
    assert "sec-websocket-extensions" not in answer.headers


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"},
        {"Sec-WebSocket-Protocol": "other, planwire.v1"},
        {"Sec-WebSocket-Protocol": " planwire.v1 ,x"},
        {"Sec-WebSocket-Extensions": "x-unknown; a=1"},
        {"Origin": "https://app.example.com"},
        {"Origin": "HTTPS://APP.example.com"},
    ],
)
async def test_a_proper_handshake_is_accepted_in_any_dress(running: Running, changes: dict[str, str]) -> None:
    async with greet(running.port, changes=changes):
        pass


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426, "version"),
        ({"Sec-WebSocket-Version": "14"}, 426, "version"),
        ({"Sec-WebSocket-Version": None}, 426, "version"),
        ({"Sec-WebSocket-Key": None}, 400, "bad_handshake"),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400, "bad_handshake"),
        ({"Sec-WebSocket-Key": "!" * 24}, 400, "bad_handshake"),
        ({"Sec-WebSocket-Key": KEY + "AAAA"}, 400, "bad_handshake"),
        ({"Host": None}, 400, "bad_handshake"),
        ({"Host": "gateway.test", "host": "gateway.test"}, 400, "bad_handshake"),
        ({"Content-Length": "2"}, 400, "bad_handshake"),
        ({"Transfer-Encoding": "chunked"}, 400, "bad_handshake"),
        ({"Sec-WebSocket-Protocol": None}, 400, "subprotocol"),
        ({"Sec-WebSocket-Protocol": "planwire.v2"}, 400, "subprotocol"),
        ({"Sec-WebSocket-Protocol": "Planwire.V1"}, 400, "subprotocol"),
        ({"Sec-WebSocket-Protocol": ",,;"}, 400, "subprotocol"),
        ({"Sec-WebSocket-Extensions": "permessage-deflate; ="}, 400, "bad_handshake"),
        ({"Origin": "https://evil.example"}, 403, "origin"),
        ({"Origin": "null"}, 403, "origin"),
    ],
)
async def test_an_improper_handshake_is_answered_with_a_problem(
    running: Running, changes: dict[str, str | None], status: int, code: str
) -> None:
    async with dial(running.port) as wire:
        await wire.send(head(changes))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert await wire.rest() == b""
    if status == 426:
        assert answer.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (f"Sec-WebSocket-Key: {KEY}\r\n", 400),
        ("Sec-WebSocket-Version: 13\r\n", 426),
        ("Origin: https://app.example.com\r\n", 403),
        ("Sec-WebSocket-Protocol: other\r\n", 101),
        ("Sec-WebSocket-Extensions: x-two\r\n", 101),
    ],
)
async def test_a_duplicate_header_is_joined_and_only_lists_may_have_one(
    running: Running, line: str, status: int
) -> None:
    async with dial(running.port) as wire:
        await wire.send(head({"Origin": "https://app.example.com", "Sec-WebSocket-Extensions": "x-one"}, extra=line))
        assert (await wire.answer()).status == status


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
async def test_only_a_get_opens_a_socket(running: Running, method: str) -> None:
    async with dial(running.port) as wire:
        await wire.send(head(method=method))
        answer = await wire.answer()
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method_not_allowed", "GET")


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/connect?x=1", 101), ("/", 404), ("/v1/connect/", 404), ("/v1/state/tenant:a", 404)]
)
async def test_sockets_are_served_at_one_path(running: Running, path: str, status: int) -> None:
    async with dial(running.port) as wire:
        await wire.send(head(path=path))
        assert (await wire.answer()).status == status


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
        ),
        (
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("permessage-deflate; server_max_window_bits=9", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; no_such_parameter", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("x-webkit-deflate-frame", None),
    ],
)
async def test_compression_is_negotiated_only_without_context_takeover(
    running: Running, offer: str, answer: str | None
) -> None:
    async with dial(running.port) as wire:
        await wire.send(head({"Sec-WebSocket-Extensions": offer}))
        accepted = await wire.answer()
    assert (accepted.status, accepted.headers.get("sec-websocket-extensions")) == (101, answer)


async def test_a_frame_may_follow_the_handshake_in_the_same_packet(running: Running) -> None:
    async with dial(running.port) as wire:
        await wire.send(head(), encode(TEXT, hello()), encode(PING, b"early"))
        assert (await wire.answer()).status == 101
        assert (await wire.json())["type"] == "welcome"
        assert (await wire.until(PONG)).payload == b"early"


async def test_handshake_and_frames_may_come_byte_by_byte(running: Running) -> None:
    async with dial(running.port) as wire:
        for byte in head() + encode(TEXT, hello()):
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.answer()).status == 101
        assert (await wire.json())["type"] == "welcome"


# Frames that break the protocol (sections 5 and 7.1.7): the connection is failed, with the code that fits.

FRAGMENT = encode(TEXT, b"{", fin=False)


def wide(opcode: int, size: int, size_bytes: int) -> bytes:
    """Return a frame of blanks whose length takes 2 or 8 bytes, needed or not."""
    length = struct.pack("!BH", 0x80 | 126, size) if size_bytes == 2 else struct.pack("!BQ", 0x80 | 127, size)
    return bytes([0x80 | opcode]) + length + bytes(4) + b" " * size


BROKEN = {
    "a length in two bytes that fits in seven bits": (wide(TEXT, 125, 2), 1002),
    "no length in two bytes": (wide(TEXT, 0, 2), 1002),
    "a length in eight bytes that fits in seven bits": (wide(TEXT, 2, 8), 1002),
    "a length in eight bytes that fits in two": (wide(TEXT, 65_535, 8), 1002),
    "a ping with a length in two bytes": (wide(PING, 4, 2), 1002),
    "the second frame with a length in two bytes": (
        encode(PING, b"ab") + encode(PONG, b"12345678") + wide(TEXT, 9, 2),
        1002,
    ),
    "unmasked": (encode(TEXT, b"{}", mask=False), 1002),
    "unmasked ping": (encode(PING, b"", mask=False), 1002),
    "rsv1 without compression": (encode(TEXT, b"{}", rsv=4), 1002),
    "rsv2": (encode(TEXT, b"{}", rsv=2), 1002),
    "rsv3": (encode(TEXT, b"{}", rsv=1), 1002),
    "rsv1 on a ping": (encode(PING, b"", rsv=4), 1002),
    **{f"reserved opcode {n}": (encode(n, b""), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (encode(PING, b"", fin=False), 1002),
    "fragmented close": (encode(CLOSE, b"", fin=False), 1002),
    "ping over 125 bytes": (encode(PING, b"x" * 126), 1002),
    "close over 125 bytes": (encode(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "continuation of nothing": (encode(CONT, b"{}"), 1002),
    "unfinished continuation of nothing": (encode(CONT, b"{}", fin=False), 1002),
    "message inside a message": (FRAGMENT + encode(TEXT, b"{}"), 1002),
    "close with one byte": (encode(CLOSE, b"\x03"), 1002),
    "close reason that is not UTF-8": (encode(CLOSE, b"\x03\xe8\xff"), 1007),
    **{
        f"close code {code}": (encode(CLOSE, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "text that is not UTF-8": (encode(TEXT, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), 1007),
    "overlong UTF-8": (encode(TEXT, b"\xc0\xaf"), 1007),
    "text cut inside a character": (encode(TEXT, b"\xe1\xbd"), 1007),
    "fragments that are not UTF-8": (encode(TEXT, b"\xce", fin=False) + encode(CONT, b"{"), 1007),
    "binary": (encode(BINARY, hello()), 4500),
    "frame above the limit": (encode(TEXT, b"", length=LIMIT + 1), 4513),
    "frame of a terabyte": (encode(TEXT, b"", length=2**40), 4513),
    "length with the highest bit": (encode(TEXT, b"", length=2**63), 4513),
    "fragments above the limit": (
        encode(TEXT, b" " * 40_000, fin=False) + encode(CONT, b" " * 25_536, fin=False) + encode(CONT, b" "),
        4513,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("greeted", [False, True], ids=["before hello", "in a session"])
async def test_a_broken_frame_fails_the_connection(running: Running, name: str, greeted: bool) -> None:
    data, code = BROKEN[name]
    async with greet(running.port) if greeted else shake(running.port) as wire:
        await wire.send(data)
        assert (await wire.closed())[0] == code
    await gone(running)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode(TEXT, deflated(b" " * 10_000_000), rsv=4), 4513),
        (encode(TEXT, deflated(b" " * (LIMIT + 1)), rsv=4), 4513),
        (encode(TEXT, deflated(b" " * 10_000_000)[:4000], rsv=4, fin=False), 4513),
        (encode(TEXT, b"\xff\xff\xff\xff", rsv=4), 1002),
        (encode(TEXT, deflated(b"{")[:-1], rsv=4, fin=False) + encode(CONT, b"", rsv=4), 1002),
        (encode(PING, deflated(b"x"), rsv=4), 1002),
        (encode(TEXT, deflated(b"\xff"), rsv=4), 1007),
    ],
    ids=["bomb", "one byte over", "bomb in a fragment", "garbage", "rsv1 on a continuation", "ping", "not UTF-8"],
)
async def test_a_broken_compressed_frame_fails_the_connection(running: Running, data: bytes, code: int) -> None:
    async with shake(running.port, DEFLATE) as wire:
        await wire.send(data)
        assert (await wire.closed())[0] == code
    await gone(running)


async def test_a_message_of_exactly_the_limit_is_taken(running: Running) -> None:
    text = hello()
    text += b" " * (LIMIT - len(text))
    for frames, changes in (
        (encode(TEXT, text), {}),
        (encode(TEXT, text[:30_000], fin=False) + encode(CONT, text[30_000:]), {}),
        (encode(TEXT, deflated(text), rsv=4), DEFLATE),
    ):
        async with shake(running.port, changes) as wire:
            await wire.send(frames)
            assert (await wire.json())["type"] == "welcome"


async def test_an_oversize_frame_that_is_sent_to_the_end_still_learns_why(running: Running) -> None:
    """Closing with bytes unread resets the connection, and the code would be lost on the way."""
    async with shake(running.port) as wire:
        await wire.send(encode(TEXT, b" " * 4_000_000))
        assert await wire.closed() == (4513, "frame too large")


async def test_what_came_before_a_broken_frame_is_answered_first(running: Running) -> None:
    async with shake(running.port) as wire:
        await wire.send(encode(TEXT, hello()), encode(PING, b"p"), encode(3))
        assert (await wire.frame()).opcode == TEXT
        assert (await wire.frame()).opcode == PONG
        assert (await wire.closed())[0] == 1002


# Fragments and control frames (sections 5.4 and 5.5).


async def test_control_frames_may_come_between_fragments(running: Running) -> None:
    text = hello(client="ü")
    cut = text.index("ü".encode()) + 1
    async with shake(running.port) as wire:
        await wire.send(
            encode(TEXT, text[:cut], fin=False),
            encode(PING, b"1"),
            encode(CONT, b"", fin=False),
            encode(PONG, b"unasked"),
            encode(PING, b"2"),
            encode(CONT, text[cut:]),
        )
        assert [(await wire.frame()).payload for _ in range(2)] == [b"1", b"2"]
        assert (await wire.json())["type"] == "welcome"


async def test_a_close_may_come_between_fragments(running: Running) -> None:
    async with shake(running.port) as wire:
        await wire.send(FRAGMENT, encode(CLOSE, struct.pack("!H", 1000)))
        assert await wire.closed() == (1000, "")


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))])
async def test_a_pong_repeats_its_ping(running: Running, payload: bytes) -> None:
    async with greet(running.port) as wire:
        await wire.send(encode(PING, payload))
        assert (await wire.until(PONG)).payload == payload


async def test_too_many_fragments_are_too_many_frames(running: Running) -> None:
    async with greet(running.port) as wire:
        await wire.send(FRAGMENT, encode(CONT, fin=False) * 200)
        assert await wire.closed() == (4529, "too many frames")


async def test_a_message_comes_in_a_bounded_number_of_fragments(running: Running) -> None:
    with start_valkey() as server:
        async with run_gateway(environment(server.url, FRAMES_PER_S="1000")) as patient:
            text = hello()
            most = connection.FRAGMENTS_MAX
            async with shake(patient.port) as wire:
                await wire.send(encode(TEXT, b"", fin=False), encode(CONT, fin=False) * (most - 2), encode(CONT, text))
                assert (await wire.json())["type"] == "welcome"
            async with shake(patient.port) as wire:
                await wire.send(encode(TEXT, text, fin=False), encode(CONT, fin=False) * (most - 1))
                assert await wire.closed() == (4529, "too many fragments")


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_a_flood_of_control_frames_is_cut_off_at_the_rate(running: Running, opcode: int) -> None:
    rate = running.node.settings.frames_per_s
    started = time.time()  # the clock that the rate is counted by
    async with greet(running.port) as wire:
        await wire.send(encode(opcode, b"x" * 100) * 5000)
        pongs = 0
        while (frame := await wire.frame()).opcode != CLOSE:
            pongs += frame.opcode == PONG
        assert struct.unpack("!H", frame.payload[:2]) == (4529,)
        assert pongs <= 2 * rate + rate * (time.time() - started)
        assert await wire.rest() == b""
    await gone(running)


async def test_who_floods_costs_little_before_the_close_and_nothing_after_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long read is cut off early, what follows is not parsed, and the connection ends without an answer too."""
    parsed: list[Frame] = []
    take = FrameParser.recv_frame

    def counted(self: FrameParser, frame: Frame) -> None:
        parsed.append(frame)
        take(self, frame)

    monkeypatch.setattr(FrameParser, "recv_frame", counted)
    burst = 3 * running.node.settings.frames_per_s
    async with greet(running.port) as wire:
        (socket,) = running.node.registry.sockets
        flood = encode(PING) * 20_000
        await wire.send(flood)
        await until(lambda: socket.is_closing)
        started = time.monotonic()
        while running.node.registry.sockets:
            await wire.send(flood)
            await asyncio.sleep(0.01)
            assert time.monotonic() - started < WELL_AFTER_S
    assert len(parsed) <= burst + 1000, "of many times 20,000"


# The closing handshake (section 7).


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
async def test_a_close_is_answered_with_its_own_code(running: Running, code: int) -> None:
    await gone(running)  # the test before this one may have left one that ends with the same code
    label = code if code in CLOSE_CODES else OTHER
    before = running.node.metrics.closed[label]
    async with greet(running.port) as wire:
        await wire.send(encode(CLOSE, struct.pack("!H", code) + "bye ü".encode()))
        assert await wire.closed() == (code, "bye ü")
    await gone(running)
    assert running.node.metrics.closed[label] == before + 1


async def test_a_close_without_a_code_is_answered_without_one(running: Running) -> None:
    async with greet(running.port) as wire:
        await wire.send(encode(CLOSE))
        assert await wire.closed() == (1005, "")


async def test_nothing_after_a_close_counts(running: Running) -> None:
    async with shake(running.port) as wire:
        await wire.send(encode(CLOSE, struct.pack("!H", 1000)), encode(TEXT, hello()), encode(PING), encode(3))
        assert await wire.closed() == (1000, "")


async def test_a_message_in_the_packet_of_the_close_is_answered(running: Running) -> None:
    async with shake(running.port) as wire:
        await wire.send(encode(TEXT, hello()), encode(CLOSE, struct.pack("!H", 1000)))
        assert (await wire.json())["type"] == "welcome"
        assert await wire.closed() == (1000, "")


async def test_a_refused_message_in_the_packet_of_the_close_has_one_close_frame(running: Running) -> None:
    async with shake(running.port) as wire:
        await wire.send(encode(TEXT, b"\xff"), encode(PING), encode(CLOSE, struct.pack("!H", 1000)))
        assert (await wire.closed())[0] == 1007


async def test_the_peer_answers_our_close_and_the_connection_ends(running: Running) -> None:
    async with greet(running.port) as wire:
        (socket,) = running.node.registry.sockets
        socket.close(4000, "going away")
        socket.close(4401, "twice")
        socket.write(b"late")
        frame = await wire.until(CLOSE)
        assert frame.payload == struct.pack("!H", 4000) + b"going away"
        await wire.send(encode(CLOSE, frame.payload))
        assert await wire.rest() == b""
    await gone(running)
    assert running.node.metrics.closed[4000] >= 1


@pytest.mark.parametrize("code", [4000, 4529])
async def test_a_peer_that_does_not_answer_a_close_is_dropped(running: Running, code: int) -> None:
    async with greet(running.port) as wire:
        (socket,) = running.node.registry.sockets
        started = time.monotonic()
        socket.close(code, "")
        await until(lambda: not running.node.registry.sockets, WELL_AFTER_S)
        assert time.monotonic() - started > 0.75 * registry.CLOSE_TIMEOUT_S
        assert (await wire.until(CLOSE)).payload == struct.pack("!H", code)


async def test_a_peer_that_stays_after_breaking_the_protocol_is_dropped(running: Running) -> None:
    async with greet(running.port) as wire:
        started = time.monotonic()
        await wire.send(encode(3))
        assert (await wire.closed())[0] == 1002
        await until(lambda: not running.node.registry.sockets, WELL_AFTER_S)
        assert time.monotonic() - started > 0.75 * registry.CLOSE_TIMEOUT_S, "it has the time to take the close in"
    assert running.node.metrics.closed[1002] >= 1


@pytest.mark.parametrize("how", ["reset", "end", "end inside a frame", "half-close"])
async def test_a_peer_that_leaves_without_a_word_is_forgotten(running: Running, how: str) -> None:
    async with greet(running.port, "tenant:acme") as wire:
        await until(lambda: len(running.node.hub.topics) == 1)
        if how == "reset":
            wire.reset()
        elif how == "half-close":
            wire.writer.write_eof()
            await wire.rest()
        else:
            if how == "end inside a frame":
                await wire.send(encode(TEXT, b"{}")[:3])
            wire.writer.close()
        await until(lambda: not running.node.registry.sockets)
    await until(
        lambda: not running.node.registry.admission._per_address and not running.node.registry.admission._per_subject
    )


async def test_a_session_without_a_hello_is_closed() -> None:
    with start_valkey() as server:
        async with (
            run_gateway(environment(server.url, HELLO_TIMEOUT_S="0.3")) as hasty,
            shake(hasty.port) as wire,
        ):
            await wire.send(encode(PING, b"alive"))
            assert await wire.closed() == (4501, "no hello in time")


@pytest.mark.parametrize(
    ("first", "code"), [(b'{"type":"ack","topic":"tenant:a","version":1}', 4501), (b"{", 4500), (b"[]", 4500)]
)
async def test_the_first_frame_is_a_hello(running: Running, first: bytes, code: int) -> None:
    async with shake(running.port) as wire:
        await wire.send(encode(TEXT, first))
        assert (await wire.json())["type"] == "error"
        assert (await wire.closed())[0] == code


async def test_a_closed_socket_leaves_no_object_behind(running: Running) -> None:
    for data, _ in BROKEN.values():
        async with shake(running.port) as wire:
            await wire.send(data)
            await wire.rest()
    await gone(running)
    await until(lambda: not running.server.server_state.connections)

    def left() -> int:
        gc.collect()
        return sum(isinstance(item, connection.WebSocket) for item in gc.get_objects())

    await until(lambda: left() == 0)
