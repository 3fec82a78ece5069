"""WebSocket frames by hand (RFC 6455, 5.2): the few that a step needs, for the front and for env workers."""

from __future__ import annotations

import struct

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "frame_head",
    "next_message",
    "unmask",
    "unmasked",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL = 0x80
_MASKED = 0x80
_PIECE_BYTES = 1 << 18  # a multiple of the key's 4


def next_message(data: bytes | bytearray) -> tuple[bytes | None, int]:
    """The payload of the whole masked binary message that these bytes begin with, and where it ends.

    (None, 0) when they begin with anything else; (None, n) when they are the beginning of one of n bytes,
    with n = 1 while even that cannot be said.
    """
    if data[0] != _FINAL | BINARY:
        return None, 0
    if len(data) < 2:
        return None, 1
    size, start = data[1] - _MASKED, 2
    if size < 0:
        return None, 0
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None, 1
        size = data[2] << 8 | data[3] if size == 126 else int.from_bytes(data[2:10], "big")
    end = start + 4 + size
    if len(data) < end:
        return None, end
    return unmasked(data[start : start + 4], data[start + 4 : end]), end


def unmask(key: bytes | bytearray, payload: memoryview) -> None:
    """The same in place, for a large payload: without a second copy of it, and without integers as large."""
    for start in range(0, len(payload), _PIECE_BYTES):
        payload[start : start + _PIECE_BYTES] = unmasked(key, bytes(payload[start : start + _PIECE_BYTES]))


def unmasked(key: bytes | bytearray, payload: bytes | bytearray) -> bytes:
    """RFC 6455, 5.3, as one XOR of two long integers; masks as well."""
    size = len(payload)
    repeated = (bytes(key) * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def frame_head(opcode: int, size: int) -> bytes:
    """What stands before a payload of `size` bytes in a final frame that is not masked."""
    if size < 126:
        return bytes((_FINAL | opcode, size))
    if size < 1 << 16:
        return struct.pack("!BBH", _FINAL | opcode, 126, size)
    return struct.pack("!BBQ", _FINAL | opcode, 127, size)
