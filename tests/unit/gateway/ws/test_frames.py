"""What the server writes is what an independent RFC 6455 parser reads."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from gateway.ws import frames

SIZES = [0, 1, 125, 126, 127, 128, 129, 65_535, 65_536, 70_000]


def parse(*data: bytes, deflate: bool = False) -> list[Frame]:
    """Return the frames that a browser's side reads, where the server keeps no context if `deflate`."""
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    if deflate:
        client.extensions = [PerMessageDeflate(True, True, 15, 15)]
    for part in data:
        client.receive_data(part)
    assert client.parser_exc is None
    events = client.events_received()
    assert all(isinstance(event, Frame) for event in events)
    return events  # type: ignore[return-value]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("deflate", [False, True])
def test_a_text_frame_of_any_size_is_read_back(size: int, deflate: bool) -> None:
    payload = ("é" * (size // 2) + "x" * (size % 2)).encode()
    encoded = frames.text(payload, deflate)
    (read,) = parse(encoded, deflate=deflate)
    assert (read.opcode, read.fin, bytes(read.data)) == (Opcode.TEXT, True, payload)
    is_compressed = encoded[0] & 0x40 != 0
    assert is_compressed == (deflate and size >= frames.DEFLATE_MIN_BYTES)


@given(st.lists(st.tuples(st.text(max_size=300), st.booleans()), max_size=6))
def test_compressed_and_plain_frames_share_a_socket_in_any_order(items: list[tuple[str, bool]]) -> None:
    read = parse(*(frames.text(text.encode(), deflate) for text, deflate in items), deflate=True)
    assert [bytes(one.data).decode() for one in read] == [text for text, _ in items]


def test_a_compressed_frame_needs_no_context_so_that_its_bytes_can_be_shared() -> None:
    """The same bytes to a socket that has seen other frames, and to one that has seen none."""
    payload = b'{"plan":{"key":"pro","name":"Pro"}}' * 20
    shared = frames.text(payload, True)
    before = frames.text(b"something else entirely " * 30, True)
    assert bytes(parse(before, shared, deflate=True)[-1].data) == payload
    assert bytes(parse(shared, deflate=True)[-1].data) == payload
    assert len(shared) < len(payload) / 4


def test_a_compressed_frame_ends_as_rfc_7692_has_it() -> None:
    payload = b"a" * 500
    encoded = frames.text(payload, True)
    assert not encoded.endswith(b"\x00\x00\xff\xff")
    assert zlib.decompressobj(-15).decompress(encoded[2:] + b"\x00\x00\xff\xff") == payload


@given(code=st.sampled_from([1000, 1012, 4000, 4008, 4401, 4529]), reason=st.text(max_size=200))
def test_a_close_frame_carries_its_code_and_what_fits_of_the_reason(code: int, reason: str) -> None:
    try:
        reason.encode()
    except UnicodeEncodeError:
        return
    (read,) = parse(frames.close(code, reason))
    close = Close.parse(bytes(read.data))
    assert read.opcode is Opcode.CLOSE
    assert close.code == code
    assert reason.startswith(close.reason)
    assert close.reason == reason or len(close.reason.encode()) >= 120


def test_the_ping_is_a_ping() -> None:
    (read,) = parse(frames.PING)
    assert (read.opcode, bytes(read.data)) == (Opcode.PING, b"")


@pytest.mark.parametrize("size", SIZES)
def test_the_server_never_masks_and_uses_the_shortest_length(size: int) -> None:
    encoded = frames.text(b"x" * size, False)
    assert encoded[0] == 0x81
    assert encoded[1] & 0x80 == 0
    assert len(encoded) - size == (2 if size < 126 else 4 if size < 65_536 else 10)


def masked(payload: bytes, first: int = 0x81, mask: bytes = b"mask") -> bytes:
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE)) + size.to_bytes(2, "big")
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535])
def test_a_browsers_one_whole_text_frame_is_read(size: int) -> None:
    payload = (b"0123456789" * 6554)[:size]
    assert frames.whole_text(masked(payload), 65_535) == payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        masked(b"ab")[:-1],
        masked(b"ab") + b"\x81",
        masked(b"ab", 0x01),
        masked(b"ab", 0x82),
        masked(b"ab", 0xC1),
        masked(b"ab", 0x89),
        b"\x81\x02ab" + b"cdef",
        b"\x81\xfe\x00\x02maskab",
        b"\x81\xff" + bytes(7) + b"\x02maskab",
        masked(b"x" * 101),
    ],
    ids=[
        "nothing",
        "cut",
        "more",
        "fragment",
        "binary",
        "reserved",
        "ping",
        "unmasked",
        "long form",
        "longer",
        "large",
    ],
)
def test_any_other_frame_is_left_to_the_parser(data: bytes) -> None:
    assert frames.whole_text(data, 100) is None
