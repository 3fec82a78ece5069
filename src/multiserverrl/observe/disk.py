"""Changing files so that each is the old one or the whole new one, whoever is killed when and however full the disk is.

What is not finished bears a name of its own (`.writing-…`) until it is renamed; `remove_leftovers`
clears away what a kill left of it. Every change goes through a `Disk`, so that a test can pass one
that fails, or kills its process, at any of them.
"""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["DISK", "Disk", "Written", "aside_of", "discard", "remove_leftovers", "replace_file", "write_file"]

CHUNK_BYTES = 1 << 20
_ASIDE = ".writing-"


class Disk:
    """What is asked of the operating system, one method a change; each may raise OSError."""

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def create(self, path: Path) -> BinaryIO:
        """An unbuffered new file, or an old one made empty."""
        return path.open("wb", buffering=0)

    def write(self, file: BinaryIO, content: memoryview) -> int:
        """Bytes that were taken; fewer than there are on a disk that is nearly full."""
        return file.write(content)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def sync_directory(self, path: Path) -> None:
        """Names in it are as they are now, also after a power cut."""
        if sys.platform == "win32":  # directories cannot be synced there
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            self.sync(fd)
        finally:
            os.close(fd)


DISK = Disk()


class Written(NamedTuple):
    """What a file holds: its checksum is that of the bytes which were to be written, not of those that were."""

    size_bytes: int
    crc32: int


def write_file(path: Path, parts: Iterable[bytes | memoryview], disk: Disk = DISK) -> Written:
    """Write and sync a file; after an OSError it holds a part of it."""
    size_bytes = crc32 = 0
    with disk.create(path) as file:
        for part in parts:
            view = memoryview(part).cast("B")
            size_bytes += len(view)
            while view:
                count = disk.write(file, view[:CHUNK_BYTES])
                crc32 = zlib.crc32(view[:count], crc32)
                view = view[count:]
        disk.sync(file.fileno())
    return Written(size_bytes, crc32)


def replace_file(path: Path, parts: Iterable[bytes | memoryview], disk: Disk = DISK) -> None:
    """Make a file of these bytes. After an OSError the old one is as it was."""
    aside = aside_of(path)
    try:
        write_file(aside, parts, disk)
        disk.rename(aside, path)
    finally:
        discard(aside)
    disk.sync_directory(path.parent)


def aside_of(path: Path) -> Path:
    """Where something is while it is not finished."""
    return path.with_name(f"{_ASIDE}{path.name}")


def discard(path: Path) -> None:
    """Remove a file or a whole directory, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # it is tried again at the next start


def remove_leftovers(directory: Path) -> list[str]:
    """Clear away what was being written when a process was killed; the names. Only for who owns the directory."""
    leftovers = sorted(directory.glob(f"{_ASIDE}*"))
    for path in leftovers:
        discard(path)
    return [path.name for path in leftovers]
