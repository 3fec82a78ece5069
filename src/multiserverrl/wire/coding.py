"""Frames as they travel on a connection that agreed to compress them, or to give each a checksum.

    plain   prefix                     header, padding, body
    coded   prefix with flags          the same, or all of it as one zstd frame     CRC-32 of all before it

Agreed in the WebSocket's handshake, under the name HEADER: the client says what it wants ("zstd, crc32"), the
server what it grants. What bears a flag that was not agreed on is refused, and no size is believed before it is
looked at. A connection that agreed on nothing has no Codec: its frames cost nothing more.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import zstandard

from multiserverrl.errors import WireError

__all__ = ["CLOSED_DAMAGED", "HEADER", "LEAST_BYTES", "Codec", "Coding", "CodingError"]

HEADER = "Multiserverrl-Coding"
CLOSED_DAMAGED = 4003  # a frame that its checksum does not fit: connect again, and send it again
LEAST_BYTES = 1024  # shorter frames are one packet either way
_CLOSED_BAD, _CLOSED_TOO_LARGE = 4002, 1009

_ZSTD, _CRC32 = "zstd", "crc32"
_CHECKSUM, _COMPRESSED = 1, 2  # the bits of a prefix's flags
_PREFIX_BYTES, _CRC_BYTES = 8, 4
_RESIDUE = 0x2144DF1C  # the CRC-32 of anything with its own CRC-32 behind it
_LEVEL = 1  # images shrink as much as at 3; numbers more than at -1, in the same time (docs/decisions/009)
_MOST_SKIPPED = 64

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Coding:
    """What is done to the frames of a connection, both ways."""

    compression: bool = False
    checksum: bool = False

    @classmethod
    def parse(cls, text: str) -> Coding:
        """What a header says; words that this side does not know are left out."""
        names = {name.strip().lower() for name in text.split(",")}
        return cls(_ZSTD in names, _CRC32 in names)

    def __str__(self) -> str:
        return ", ".join(name for name, is_on in ((_ZSTD, self.compression), (_CRC32, self.checksum)) if is_on)

    def __bool__(self) -> bool:
        return self.compression or self.checksum

    def __and__(self, other: Coding) -> Coding:
        return Coding(self.compression and other.compression, self.checksum and other.checksum)


class CodingError(WireError):
    """A frame that cannot be decoded; `close_code` is what its connection is closed with."""

    def __init__(self, message: str, close_code: int = _CLOSED_BAD) -> None:
        super().__init__(message)
        self.close_code = close_code


class Codec:
    """Both directions of one connection. Not for two threads at once."""

    def __init__(self, coding: Coding, max_bytes: int) -> None:
        self.coding, self._max_bytes = coding, max_bytes
        self._allowed = _CHECKSUM * coding.checksum | _COMPRESSED * coding.compression
        self._compressor = zstandard.ZstdCompressor(_LEVEL) if coding.compression else None
        self._decompressor = zstandard.ZstdDecompressor()
        self._skips = self._to_skip = 0

    def encode(self, frame: bytes) -> bytes:
        """A plain frame as it travels."""
        small = self._compressed(frame) if self._compressor is not None and len(frame) >= LEAST_BYTES else None
        if small is None and not self.coding.checksum:
            return frame
        flags = _CHECKSUM * self.coding.checksum | _COMPRESSED * (small is not None)
        head = frame[:2] + flags.to_bytes(2, "little") + frame[4:_PREFIX_BYTES]
        content = memoryview(frame)[_PREFIX_BYTES:] if small is None else small
        if not self.coding.checksum:
            return b"".join((head, content))
        checksum = zlib.crc32(content, zlib.crc32(head))
        return b"".join((head, content, checksum.to_bytes(_CRC_BYTES, "little")))

    def _compressed(self, frame: bytes) -> bytes | None:
        """What follows the prefix, if it shrinks by an eighth. After one that does not, some more are not tried."""
        assert self._compressor is not None
        if self._to_skip:
            self._to_skip -= 1
            return None
        small = self._compressor.compress(memoryview(frame)[_PREFIX_BYTES:])
        if 8 * len(small) > 7 * (len(frame) - _PREFIX_BYTES):
            self._skips = self._to_skip = min(2 * self._skips + 1, _MOST_SKIPPED)
            return None
        self._skips = 0
        return small

    def decode(self, frame: Buffer) -> memoryview:
        """The plain frame, in a buffer of its own where it was coded.

        CodingError for a checksum that does not fit, a flag that was not agreed on, and what is no zstd frame
        or would be larger than a message may be; nothing is allocated before that is known.
        """
        view = memoryview(frame)
        if self.coding.checksum:
            view = _without_checksum(view)
        if len(view) < _PREFIX_BYTES:
            raise CodingError(f"a frame has at least {_PREFIX_BYTES} bytes, not {len(view)}")
        flags = view[2] | view[3] << 8
        if flags & ~self._allowed:
            told = str(self.coding) or "nothing"
            raise CodingError(f"the frame's flags are {flags:#06x}, but {told} was agreed on")
        if not flags:
            return view
        plain = self._decompressed(view) if flags & _COMPRESSED else bytearray(view)
        plain[2:4] = bytes(2)
        return memoryview(plain)

    def _decompressed(self, view: memoryview) -> bytearray:
        content = view[_PREFIX_BYTES:]
        try:
            size = zstandard.frame_content_size(content)
            if size < 0:
                raise CodingError("a compressed frame says how large it is; this one does not")
            if size > self._max_bytes - _PREFIX_BYTES:
                raise CodingError(f"a message has at most {self._max_bytes} bytes", _CLOSED_TOO_LARGE)
            told = self._decompressor.decompress(content, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodingError(f"a frame that is not compressed as it says: {error}") from error
        plain = bytearray(_PREFIX_BYTES + len(told))
        plain[:_PREFIX_BYTES], plain[_PREFIX_BYTES:] = view[:_PREFIX_BYTES], told
        return plain


def _without_checksum(view: memoryview) -> memoryview:
    """All before the checksum, when it fits."""
    if zlib.crc32(view) != _RESIDUE or len(view) < _PREFIX_BYTES + _CRC_BYTES or not view[2] & _CHECKSUM:
        raise CodingError("a frame was damaged on its way: its checksum does not fit", CLOSED_DAMAGED)
    return view[:-_CRC_BYTES]
