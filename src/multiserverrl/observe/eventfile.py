"""TensorBoard's event files, written by hand: its own writer costs 0.12 s of imports, and needs a dozen packages.

A file is a row of records (TFRecord: length, its checksum, content, its checksum), each content an `Event`
(tensorboard/compat/proto/event.proto) in protobuf's wire format. A record is whole or absent.
"""

from __future__ import annotations

import functools
import os
import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from multiserverrl.observe.metrics import append_whole
from multiserverrl.settingsfile import settings_text

__all__ = ["TensorBoard"]

_DOUBLE, _BYTES, _FLOAT = 1, 2, 5  # wire types; 0 is a varint
_DT_STRING = 7
_SESSION_START = 1


class TensorBoard:
    """One file in the run's directory, made at the first number; env steps are TensorBoard's steps.

    It begins with a session's start: what an earlier part of the run wrote of later steps, and the checkpoint did
    not know of, is left out by the reader.
    """

    name = "tensorboard"

    def __init__(self, directory: Path) -> None:
        begun_s = int(time.time())
        self._path = directory / f"events.out.tfevents.{begun_s:010d}.{platform.node()}.{os.getpid()}.0"
        self._settings: Mapping[str, Any] = {}
        self._file: BinaryIO | None = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """See `MetricsLogger`."""
        self._settings = settings

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """See `MetricsLogger`."""
        now_s = time.time()
        if self._file is None:
            self._file = self._opened(now_s, env_steps)
        values = b"".join(_field(1, _scalar(tag, value)) for tag, value in numbers.items())
        append_whole(self._file, _record(_event(now_s, env_steps, _field(5, values))))

    def close(self) -> None:
        """See `MetricsLogger`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self, now_s: float, env_steps: int) -> BinaryIO:
        settings = "".join(f"    {line}\n" for line in settings_text(self._settings).splitlines())
        first = [
            _event(now_s, 0, _field(3, b"brain.Event:2")),
            _event(now_s, env_steps, _field(7, _number(1, _SESSION_START))),
            _event(now_s, env_steps, _field(5, _field(1, _text("settings", settings)))),
        ]
        file = self._path.open("ab", buffering=0)
        try:
            append_whole(file, b"".join(map(_record, first)))
        except OSError:
            file.close()
            raise
        return file


def _event(now_s: float, step: int, what: bytes) -> bytes:
    return _key(1, _DOUBLE) + struct.pack("<d", now_s) + _number(2, step) + what


def _scalar(tag: str, value: float) -> bytes:
    """A Summary.Value with a number in float32, as TensorBoard's own have it."""
    return _field(1, tag.encode()) + _key(2, _FLOAT) + struct.pack("<f", _float32(value))


def _text(tag: str, text: str) -> bytes:
    """A Summary.Value for the text plugin, which shows Markdown."""
    tensor = _number(1, _DT_STRING) + _field(2, b"") + _field(8, text.encode("utf-8", "replace"))
    return _field(1, tag.encode()) + _field(8, tensor) + _field(9, _field(1, _field(1, b"text")))


def _float32(value: float) -> float:
    """Beyond float32's range: an infinity."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", _masked_crc32c(length)) + content + struct.pack("<I", _masked_crc32c(content))


def _masked_crc32c(content: bytes) -> int:
    """CRC-32C, turned and shifted as TFRecord wants it; 0.1 ms a record of 30 numbers, about one a second."""
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc32c_table() -> tuple[int, ...]:
    """What each byte does to the checksum (Castagnoli's polynomial, bits reversed)."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
