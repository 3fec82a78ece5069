"""One message as bytes: a prefix of 8 bytes, the header (MessagePack), padding to 8, and the body as it lies.

    byte 0     0x4D ("M")
    byte 1     protocol version
    bytes 2-3  flags, little-endian: 0 in a plain frame; the others are those of `coding`, which makes them plain
    bytes 4-7  size of the header in bytes, little-endian

The body runs from the next multiple of 8 to the end. No length is believed beyond the bytes that
are there, and nothing is allocated for it.
"""

from __future__ import annotations

import struct
from typing import NoReturn

import msgspec

from multiserverrl.errors import SpaceError, VersionMismatch, WireError
from multiserverrl.wire.counting import FREE_BYTES, check_count
from multiserverrl.wire.messages import PROTOCOL_VERSION, Answer, Refused, Request

__all__ = ["decode_answer", "decode_request", "encode"]

_PREFIX = struct.Struct("<BBHI")
_MAGIC = 0x4D
_WORDS = struct.Struct("<II")  # the same 8 bytes: magic, version and flags as one number
_PLAIN_WORD = _MAGIC | PROTOCOL_VERSION << 8
_PADDING = [bytes(-size % 8) for size in range(8)]

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)

_NOT_OURS = (msgspec.DecodeError, ValueError, TypeError, RecursionError)  # bad UTF-8, unhashable keys, deep nesting

Buffer = bytes | bytearray | memoryview


def encode(message: Request | Answer, body: Buffer = b"") -> bytes:
    """A message as one frame; SpaceError for what cannot be carried: a text that is not Unicode (a refusal's is
    made so), an integer beyond 64 bits."""
    try:
        header = _encoder.encode(message)
    except UnicodeEncodeError as error:
        if isinstance(message, Refused):  # whatever an env said when it raised, its refusal travels
            told = {name: getattr(message, name).encode(errors="replace").decode() for name in ("message", "traceback")}
            return encode(msgspec.structs.replace(message, **told), body)
        raise SpaceError(f"a text that is not Unicode cannot be carried: {error}") from error
    except OverflowError as error:
        raise SpaceError("an integer beyond 64 bits cannot be carried here") from error
    size = len(header)
    prefix = _PREFIX.pack(_MAGIC, PROTOCOL_VERSION, 0, size)
    return b"".join((prefix, header, _PADDING[size % 8], body))


def decode_request(frame: Buffer) -> tuple[Request, memoryview]:
    """The request of a frame and its body (a view); WireError for anything else."""
    header, body = _split(frame)
    try:
        return _requests.decode(header), body
    except _NOT_OURS as error:
        raise WireError(f"the frame's header is no request: {error}") from error


def decode_answer(frame: Buffer) -> tuple[Answer, memoryview]:
    """The answer of a frame and its body (a view); WireError for anything else."""
    header, body = _split(frame)
    try:
        return _answers.decode(header), body
    except _NOT_OURS as error:
        raise WireError(f"the frame's header is no answer: {error}") from error


def _split(frame: Buffer) -> tuple[memoryview, memoryview]:
    view = memoryview(frame)
    if len(view) < _PREFIX.size:
        raise WireError(f"a frame has at least {_PREFIX.size} bytes, not {len(view)}")
    word, size = _WORDS.unpack_from(view)
    if word != _PLAIN_WORD:
        _refuse(view)
    end = _PREFIX.size + size
    if end > len(view):
        raise WireError(f"the frame says its header has {size} bytes; {len(view) - _PREFIX.size} are there")
    header = view[_PREFIX.size : end]
    if size > FREE_BYTES:
        check_count((header,))
    return header, view[min(end + -size % 8, len(view)) :]


def _refuse(view: memoryview) -> NoReturn:
    """Say what is wrong with the prefix."""
    magic, version, flags, _ = _PREFIX.unpack_from(view)
    if magic != _MAGIC:
        raise WireError(f"a frame begins with byte {_MAGIC:#x}, not {magic:#x}: is this a multiserverrl server?")
    if version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the frame is of protocol version {version}, this side speaks {PROTOCOL_VERSION}; "
            "install the same release of multiserverrl on both"
        )
    raise WireError(f"the frame's flags are {flags:#06x}, which were not agreed on")
