"""WebSocket frames that the server writes, and the plainest one it reads (RFC 6455 section 5.2, RFC 7692). Pure.

Written is only what is encoded once and shared: whole, unmasked, and where compressed, compressed without context, so
that the same bytes serve every socket that negotiated it.
"""

from __future__ import annotations

import struct
import zlib

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # in C, where there is a compiler

DEFLATE_MIN_BYTES = 128
"""Shorter frames are sent plain: they would hardly shrink."""

PING = b"\x89\x00"
EMPTY_PONG = b"\x8a\x80"
"""The head of a browser's answer to `PING`; a mask of four bytes follows, and nothing else."""


def text(payload: bytes, deflate: bool) -> bytes:
    """Return a text frame of UTF-8 `payload`; compressed where asked for and worth it."""
    if deflate and len(payload) >= DEFLATE_MIN_BYTES:
        # Raw deflate, flushed to a byte boundary, less the four bytes that RFC 7692 section 7.2.1 removes.
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        return _frame(0xC1, (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4])
    return _frame(0x81, payload)


def whole_text(data: bytes, limit: int) -> bytes | None:
    """Return the payload of `data`, a browser's one whole text frame of at most `limit` bytes, else None.

    Only the plainest form: final, masked, uncompressed, below 64 KiB, its length in the fewest bytes, nothing after it.
    """
    size = len(data)
    if size < 6 or data[0] != 0x81:
        return None
    length, head = data[1] - 0x80, 6
    if length == 126 and size > 8:
        length, head = data[2] << 8 | data[3], 8
        if length < 126:
            return None
    elif not 0 <= length < 126:
        return None
    if size != head + length or length > limit:
        return None
    return apply_mask(data[head:], data[head - 4 : head])


def close(code: int, reason: str) -> bytes:
    """Return a close frame; `reason` is cut to the 123 bytes that fit."""
    return _frame(0x88, struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode())


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload
