"""A logger in a process of its own: what it imports, prints, and waits for on a network holds up nobody.

Numbers go to it as lines in a pipe; what it could not do comes back as lines in another, an empty one
when all is well again. Neither end ever waits for the other, but `close` for a while.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from multiserverrl.observe.loggers import MetricsLogger, RunName
from multiserverrl.processes import NOWHERE, Child, cause_of_exit, start_child

__all__ = ["Aside", "run"]

CLOSE_S = 30.0  # what is on its way to a network may take a while
AGAIN_AFTER_S = 30.0  # a process that died, or a service that cannot be begun with
MOST_UNSENT_BYTES = 1 << 20


class _Brief(msgspec.Struct):
    name: str
    run: RunName
    settings: dict[str, Any]


class Aside:
    """The run's end; the process starts with the first number. Used from the main thread alone."""

    def __init__(self, name: str, run: RunName, secrets: Sequence[str] = ()) -> None:
        self.name, self._secrets = name, secrets
        self._brief = _Brief(name, run, {})
        self._child: Child | None = None
        self._start_at_s = 0.0
        self._lines_fd = self._told_fd = -1
        self._unsent, self._told, self._why = b"", b"", ""

    def begin(self, settings: Mapping[str, Any]) -> None:
        """See `MetricsLogger`."""
        self._brief.settings = dict(settings)

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """See `MetricsLogger`."""
        if self._child is None:
            if time.monotonic() < self._start_at_s:
                raise OSError(errno.EIO, self._why)
            self._start()
        line = json.dumps([env_steps, dict(numbers)]).encode() + b"\n"
        if len(self._unsent) + len(line) > MOST_UNSENT_BYTES:
            raise OSError(errno.EIO, "its process takes no more lines")
        self._unsent += line
        self._send()
        self._raise_what_was_told()

    def close(self) -> None:
        """See `MetricsLogger`."""
        if self._child is None:
            return
        child = self._child
        try:
            self._send()
            os.close(self._lines_fd)
            self._lines_fd = -1
            if child.wait(CLOSE_S) is None:
                raise OSError(errno.EIO, f"it did not end within {CLOSE_S:.0f} s: what it had not sent is lost")
            self._raise_what_was_told()
        finally:
            self._end()

    def _start(self) -> None:
        self._unsent, self._told, self._why = b"", b"", ""
        lines, self._lines_fd = os.pipe()
        self._told_fd, told = os.pipe()
        try:
            self._child = start_child(
                "multiserverrl.observe.aside:run",
                msgspec.json.encode(self._brief),
                name=f"{self.name} logger",
                fds=(lines, told),
                without=self._secrets,
                stdout=NOWHERE,
                stderr=NOWHERE,
            )
        finally:
            os.close(lines)
            os.close(told)
            if self._child is None:
                self._end()
        os.set_blocking(self._lines_fd, False)
        os.set_blocking(self._told_fd, False)

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # one that has ended is told of
            while self._unsent:
                self._unsent = self._unsent[os.write(self._lines_fd, self._unsent) :]

    def _raise_what_was_told(self) -> None:
        assert self._child is not None
        code = self._child.exitcode()  # before the pipe is read to its end
        with contextlib.suppress(BlockingIOError):
            while told := os.read(self._told_fd, 4096):
                self._told += told
        *whole, self._told = self._told.split(b"\n")
        if whole:
            self._why = whole[-1].decode("utf-8", "replace")
        if code:
            self._why = self._why or f"its process died by {cause_of_exit(code)}"
            self._end()
        if self._why:
            raise OSError(errno.EIO, self._why)

    def _end(self) -> None:
        """No process and no pipe is left; another may be started after a while."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        for fd in (self._lines_fd, self._told_fd):
            if fd >= 0:
                os.close(fd)
        self._lines_fd = self._told_fd = -1
        self._start_at_s = time.monotonic() + AGAIN_AFTER_S


def run(config: bytes, fds: list[int]) -> None:
    """The process: each line to the logger, what goes wrong back. It ends when the run's end of the pipe is closed."""
    from multiserverrl.observe.trackers import TRACKERS

    if hasattr(os, "nice"):
        os.nice(10)  # it takes what the run leaves
    brief = msgspec.json.decode(config, type=_Brief)
    keeper = _Keeper(brief, TRACKERS[brief.name](brief.run), fds[1])
    with os.fdopen(fds[0], "rb") as lines:
        for line in lines:
            env_steps, numbers = json.loads(line)
            keeper.write(numbers, env_steps)
    keeper.close()


class _Keeper:
    """Tries the logger again and again, whatever it raises."""

    def __init__(self, brief: _Brief, logger: MetricsLogger, told_fd: int) -> None:
        self._brief, self._logger, self._told_fd = brief, logger, told_fd
        self._has_begun = False
        self._begin_at_s = 0.0
        self._why = ""

    def write(self, numbers: dict[str, float], env_steps: int) -> None:
        if not self._has_begun and time.monotonic() < self._begin_at_s:
            return  # lost, and told of already
        try:
            if not self._has_begun:
                self._begin_at_s = time.monotonic() + AGAIN_AFTER_S
                self._logger.begin(self._brief.settings)
                self._has_begun = True
            self._logger.write(numbers, env_steps)
            self._tell("")
        except Exception as error:  # other people's code, which may raise anything
            self._tell(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        try:
            if self._has_begun:
                self._logger.close()
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")

    def _tell(self, why: str) -> None:
        """In one line, when it is news; who does not listen is not waited for."""
        why = " ".join(why.split())[:500]
        if why != self._why:
            self._why = why
            os.write(self._told_fd, why.encode() + b"\n")
