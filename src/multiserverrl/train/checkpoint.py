"""Checkpoints: what a run needs to be gone on with, on disk.

A checkpoint is a directory with three files: arrays (safetensors), state (JSON), and a head with the
length and checksum of both and a digest of the whole. It is written aside, synced, read again and
renamed, so that one which bears its name is whole; only then is the oldest but one removed. Nothing
in it is ever executed or unpickled, and no length in it is believed before it is checked.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors import SafetensorError

from multiserverrl.errors import CheckpointError
from multiserverrl.observe.disk import DISK, Disk, Written, aside_of, discard, write_file
from multiserverrl.observe.log import log
from multiserverrl.train.arraysfile import digest_of, parts_of, read_arrays

__all__ = ["Checkpoint", "load_newest", "save_checkpoint"]

Array = NDArray[Any]
FORMAT = 3
KEPT = 2
MOST_JSON_BYTES = 16 << 20  # head and state are far smaller
_PREFIX = "checkpoint-"
_ARRAYS, _STATE, _HEAD = "arrays.safetensors", "state.json", "head.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError, msgspec.MsgspecError)


@dataclass(frozen=True)
class Checkpoint:
    """`arrays` by name; `state` is what JSON can hold (Python's own integers included, however long)."""

    arrays: dict[str, Array]
    state: dict[str, Any]
    name: str = ""  # of one that was loaded

    def digest(self) -> str:
        """32 hexadecimal digits that are equal only when every bit of arrays and state is."""
        return digest_of(self.arrays, json.dumps(self.state, sort_keys=True).encode())


class _Head(msgspec.Struct, frozen=True):
    format: int
    files: dict[str, Written]
    digest: str


def save_checkpoint(directory: Path, checkpoint: Checkpoint, disk: Disk = DISK) -> Path:
    """Write it as the newest in `directory` and remove all but the last two; its path.

    After an OSError those that were there are there. On a full disk the older of two makes room.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = [path for _, path in _numbered(directory)]
    path = directory / f"{_PREFIX}{(_number(kept[-1]) if kept else 0) + 1:09d}"
    try:
        _write(path, checkpoint, disk)
    except OSError as error:
        if error.errno not in _FULL or len(kept) < KEPT or not _is_whole(kept[-1]):
            raise
        _remove(kept[:-1], disk)
        _write(path, checkpoint, disk)
    _remove([*kept, path][:-KEPT], disk)
    return path


def load_newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there are none. A writer may be at work meanwhile.

    Newer ones that are broken are named in the log. CheckpointError when all are.
    """
    while there := _numbered(directory):
        broken = []
        for _, path in reversed(there):
            try:
                return _load(path)
            except _BROKEN as error:
                broken.append(f"{path}: {error}")
                if path.exists():
                    log("checkpoint_passed_over", level=logging.WARNING, path=path, why=error)
        if there == _numbered(directory):  # otherwise newer ones were saved, and these removed while they were read
            raise CheckpointError("no checkpoint can be read:\n" + "\n".join(f"  {line}" for line in broken))
    return None


def _write(path: Path, checkpoint: Checkpoint, disk: Disk) -> None:
    aside = aside_of(path)
    discard(aside)
    try:
        disk.make_directory(aside)
        files = {
            _ARRAYS: write_file(aside / _ARRAYS, parts_of(checkpoint.arrays), disk),
            _STATE: write_file(aside / _STATE, [json.dumps(checkpoint.state).encode()], disk),
        }
        head = _Head(FORMAT, files, checkpoint.digest())
        write_file(aside / _HEAD, [msgspec.json.encode(head)], disk)
        disk.sync_directory(aside)
        if not _is_whole(aside):
            raise OSError(errno.EIO, "the disk gives back other bytes than were written", str(path))
        disk.rename(aside, path)
    finally:
        discard(aside)
    disk.sync_directory(path.parent)


def _remove(paths: list[Path], disk: Disk) -> None:
    """First the names: none that is half gone bears one. What cannot be removed is left for the next time."""
    for path in paths:
        try:
            disk.rename(path, aside_of(path))
        except OSError:
            return
        discard(aside_of(path))


def _load(path: Path) -> Checkpoint:
    head = _checked_head(path)
    state = json.loads(_read_json(path / _STATE))
    if not isinstance(state, dict):
        raise ValueError(f"{_STATE} holds no object")
    checkpoint = Checkpoint(read_arrays(path / _ARRAYS), state, path.name)
    if checkpoint.digest() != head.digest:
        raise ValueError("it is not what was saved (its digest differs)")
    return checkpoint


def _is_whole(path: Path) -> bool:
    try:
        _checked_head(path)
    except _BROKEN:
        return False
    return True


def _checked_head(path: Path) -> _Head:
    """The head, once both files are as long as it says and have its checksums."""
    text = _read_json(path / _HEAD)
    if (found := msgspec.json.decode(text, type=dict[str, Any]).get("format")) != FORMAT:
        raise ValueError(f"it is of format {found}, this version reads {FORMAT}")
    head = msgspec.json.decode(text, type=_Head)
    for name in (_ARRAYS, _STATE):
        wanted, size_bytes = head.files[name], (path / name).stat().st_size
        if size_bytes != wanted.size_bytes:
            raise ValueError(f"{name} has {size_bytes} bytes, {wanted.size_bytes} were written")
        if _crc32(path / name) != wanted.crc32:
            raise ValueError(f"{name} is not what was written (its checksum differs)")
    return head


def _read_json(path: Path) -> bytes:
    if (size_bytes := path.stat().st_size) > MOST_JSON_BYTES:
        raise ValueError(f"{path.name} has {size_bytes} bytes, more than any of ours ({MOST_JSON_BYTES})")
    return path.read_bytes()


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """Checkpoints by age, the newest last."""
    return sorted((_number(path), path) for path in directory.glob(f"{_PREFIX}*") if _digits(path).isdecimal())


def _number(path: Path) -> int:
    return int(_digits(path))


def _digits(path: Path) -> str:
    return path.name.removeprefix(_PREFIX)


def _crc32(path: Path) -> int:
    """Of what is on the disk, where the system lets us ask it to forget what it holds in memory."""
    value = 0
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value
