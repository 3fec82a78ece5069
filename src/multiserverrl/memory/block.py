"""One block of bytes that several processes map.

On Linux a block has no name anywhere: it is an anonymous file (memfd) that others open through
/proc while its creator lives, so nothing is left behind however the processes end. Elsewhere it is
a named `multiprocessing.shared_memory` block (not tested), unlinked by its creator's `close`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Block", "BlockHandle"]


class BlockHandle(msgspec.Struct, frozen=True):
    """Plain data that names a block to another process of the same user on the same host."""

    kind: str  # "memfd" or "named"
    name: str
    size_bytes: int


class Block:
    """A shared block; `buffer` is its bytes. Made by `create` or `open`, never by the constructor."""

    def __init__(self, handle: BlockHandle, buffer: memoryview, owner: Any) -> None:
        self.handle = handle
        self.buffer = buffer
        self._owner = owner

    @classmethod
    def create(cls, size_bytes: int, label: str) -> Block:
        """A new block of zeros; `label` is for people who look at a process's maps."""
        if size_bytes < 1:
            raise ValueError(f"a shared block needs at least 1 byte, not {size_bytes}")
        if not _has_memfd():
            shared = SharedMemory(create=True, size=size_bytes)
            assert shared.buf is not None
            return cls(BlockHandle("named", shared.name, size_bytes), shared.buf, _Named(shared, unlink=True))
        fd = os.memfd_create(f"multiserverrl-{label}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            _seal(fd)
            mapped = mmap.mmap(fd, size_bytes)
        except BaseException:
            os.close(fd)
            raise
        handle = BlockHandle("memfd", f"/proc/{os.getpid()}/fd/{fd}", size_bytes)
        return cls(handle, memoryview(mapped), Mapped(mapped, fd))

    @classmethod
    def open(cls, handle: BlockHandle) -> Block:
        """Map a block that another process made; FileNotFoundError when its creator is gone."""
        if handle.kind == "named":
            shared = SharedMemory(name=handle.name)
            assert shared.buf is not None
            return cls(handle, shared.buf, _Named(shared, unlink=False))
        fd = os.open(handle.name, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapped = mmap.mmap(fd, handle.size_bytes)
        finally:
            os.close(fd)
        return cls(handle, memoryview(mapped), Mapped(mapped, None))

    def array(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int = 0) -> NDArray[Any]:
        """A view of part of the block; it keeps the mapping alive, also after `close`."""
        count = int(np.prod(shape, dtype=np.int64))
        # Not np.ndarray(buffer=…): that holds no claim on the mapping, and a view used after `close` is a segfault.
        return np.frombuffer(self.buffer, dtype, count, offset).reshape(shape)

    def close(self) -> None:
        """Give the block up. Views that are still held stay valid; the memory goes with the last."""
        with contextlib.suppress(BufferError):
            self.buffer.release()
        self._owner.close()


class Mapped:
    """A mapping, and the descriptor that keeps its file open for others, if it is ours."""

    def __init__(self, mapped: mmap.mmap, fd: int | None) -> None:
        self.mapped, self.fd = mapped, fd

    def close(self) -> None:
        """Unmap, and close the descriptor."""
        with contextlib.suppress(BufferError):  # a view is still held: its mapping goes with it
            self.mapped.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class _Named:
    def __init__(self, shared: SharedMemory, unlink: bool) -> None:
        self.shared, self.unlink = shared, unlink

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self.shared.close()
        if self.unlink:
            self.unlink = False
            self.shared.unlink()


def _seal(fd: int) -> None:
    """Whoever maps the file may rely on its size."""
    import fcntl  # not on every system, as memory files are not

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def _has_memfd() -> bool:
    return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")
