"""Memory files of processes that we did not start and trust no further than we must: reading, never writing.

A path that somebody names is opened only where it can be nothing but a descriptor of a process on this host,
and mapped only when it is a memory file that cannot shrink under the mapping.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re

from multiserverrl.memory.block import Block, BlockHandle, Mapped

__all__ = ["host_id", "open_foreign"]

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PATH = re.compile(r"/proc/[0-9]+/fd/[0-9]+")


def host_id() -> str:
    """What tells this host, as long as it is up, from any other; empty where memory files cannot be opened by paths.

    Containers of one host have the same: whether a file can be opened is seen when it is tried.
    """
    if not hasattr(os, "memfd_create"):
        return ""
    try:
        with open(_BOOT_ID, "rb") as file:
            return hashlib.blake2b(file.read().strip(), digest_size=16, person=b"multiserverrl").hexdigest()
    except OSError:
        return ""


def open_foreign(path: str, size_bytes: int) -> Block:
    """Map another process's memory file for reading. ValueError for what is none, OSError where it is out of reach."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} names no memory file")
    import fcntl  # not on every system, as memory files are not

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # whatever it is, do not wait for it
    try:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise ValueError(f"{path} is no memory file") from error
        if not seals & fcntl.F_SEAL_SHRINK or os.fstat(fd).st_size < size_bytes:
            raise ValueError(f"{path} does not have {size_bytes} bytes for good")
        mapped = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(fd)
    return Block(BlockHandle("memfd", path, size_bytes), memoryview(mapped), Mapped(mapped, None))
