"""What an env worker prints (stdout and stderr are one): passed on to the front's stderr, and its end kept.

Reading never waits, and neither does passing on: what is too much, or what nobody takes, is dropped and counted.
So an env may print as much as it likes: it holds up no other, and fills no disk in a hurry.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import IO

from multiserverrl.observe.log import log

__all__ = ["WorkerOutput"]

_CHUNK_BYTES = 1 << 16
_KEPT_BYTES = 1 << 14  # told to a client whose envs die with the worker
_PIECE_BYTES = select.PIPE_BUF  # what a pipe that takes anything takes without waiting
_MOST_PER_S = 1 << 20  # passed on
_MOST_LAST_CHUNKS = 32  # a pipe holds 16 by default


class WorkerOutput:
    """Reads the pipe until `end`; `write` (by default: to stderr) gets what is passed on, in small pieces."""

    def __init__(self, worker: int, pipe: IO[bytes], write: Callable[[bytes], bool] | None = None) -> None:
        self._worker, self._pipe, self._write = worker, pipe, write or _to_stderr
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self._began = 0.0  # the second that `_passed` and `_dropped` count
        self._passed = self._dropped = 0
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def end(self) -> str:
        """The worker is gone: close the pipe; the last lines that came by it."""
        for _ in range(_MOST_LAST_CHUNKS):
            if self._pipe.closed or not self._read():
                break
        self._close()
        self._tell_dropped()
        text = self._kept.decode(errors="replace")
        _, _, whole_lines = text.partition("\n")  # the first was cut off where it is full
        return (whole_lines if len(self._kept) == _KEPT_BYTES and whole_lines else text).strip()

    def _read(self) -> bool:
        try:
            content = os.read(self._pipe.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not content:
            self._close()
            return False
        self._kept = (self._kept + content[-_KEPT_BYTES:])[-_KEPT_BYTES:]
        self._pass_on(content)
        return True

    def _pass_on(self, content: bytes) -> None:
        if (now := self._loop.time()) - self._began > 1.0:
            self._tell_dropped()
            self._began, self._passed = now, 0
        while content and self._passed < _MOST_PER_S and self._write(content[:_PIECE_BYTES]):
            self._passed += len(content[:_PIECE_BYTES])
            content = content[_PIECE_BYTES:]
        self._dropped += len(content)

    def _tell_dropped(self) -> None:
        if self._dropped:
            log("env_worker_output_dropped", worker=self._worker, size_bytes=self._dropped)
            self._dropped = 0

    def _close(self) -> None:
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()


def _to_stderr(piece: bytes) -> bool:
    """Write it if that needs no waiting."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if poll.poll(0) != [(2, select.POLLOUT)]:
        return False
    try:
        os.write(2, piece)
    except OSError:
        return False
    return True
