"""Messages as bytes: the sections Frames and Bodies of docs/protocol.md."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

__all__ = ["VERSION", "Refusal", "framed", "packed", "parsed", "stepped"]

VERSION = 1


class Refusal(Exception):
    """What the peer is told; `code` is one of the page's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


packed = msgspec.msgpack.encode


def framed(message: list[Any], body: bytes = b"") -> bytes:
    """A frame."""
    header = packed(message)
    return struct.pack("<BBHI", 0x4D, VERSION, 0, len(header)) + header + bytes(-len(header) % 8) + body


def parsed(frame: bytes) -> tuple[list[Any], bytes]:
    """The message and the body of a frame; a Refusal for bytes that are none."""
    if len(frame) < 8 or frame[0] != 0x4D or frame[2:4] != b"\0\0":
        raise Refusal("wire", "these bytes are no frame")
    if frame[1] != VERSION:
        raise Refusal("version", f"the frame is of protocol version {frame[1]}, this side speaks {VERSION}")
    end = 8 + int.from_bytes(frame[4:8], "little")
    try:
        message = msgspec.msgpack.decode(frame[8:end], type=list[Any])
    except msgspec.DecodeError as error:
        raise Refusal("wire", f"the frame's header is no message: {error}") from error
    is_first = message[:1] in (["open"], ["resume"])
    if end > len(frame) or not (is_first or [type(part) for part in message[:3]] == [str, int, int]):
        raise Refusal("wire", "the frame's header is no request")
    return message, frame[end + -end % 8 :]


def stepped(
    seq: int,
    obs: tuple[float, ...],
    reward: float = 0.0,
    is_terminated: bool = False,
    is_truncated: bool = False,
    infos: list[bytes] | None = None,
    finals: list[Any] | None = None,
) -> bytes:
    """The answer to reset and step: rewards, obs (12 bytes and 4 to the next multiple of 8), ends, 6 zeros."""
    body = struct.pack("<d3f4x??6x", reward, *obs, is_terminated, is_truncated)
    return framed(["stepped", 0, seq, infos or [], [], finals or []], body)
