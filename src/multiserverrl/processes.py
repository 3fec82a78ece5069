"""How a process of ours is born, how it ends, and why it ended.

A child is a fresh interpreter that runs one function `entry(config, fds)`: plain bytes in, inherited
descriptors beside them, nothing pickled. It has one numerical thread, its own process group (a
Ctrl-C reaches the parent alone), and on Linux dies with the thread that started it, even by kill -9.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

__all__ = [
    "NOWHERE",
    "PIPE",
    "Child",
    "Question",
    "cause_of_exit",
    "defer",
    "deferring",
    "keep_standard_descriptors",
    "start_child",
]

NOWHERE = subprocess.DEVNULL  # for what nobody is to see
PIPE = subprocess.PIPE  # for `start_child`: a stderr that the parent reads as `Child.stderr`

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


class Child:
    """A running child; the process that started it owns it and must `stop` it."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid = popen.pid
        self._group_may_live = hasattr(os, "killpg")
        self.stderr = popen.stderr  # where it was asked for as PIPE
        self._popen = popen

    def exitcode(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._popen.poll()

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None when it still runs after `timeout_s`."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def is_stopped(self) -> bool:
        """Whether it stands still (SIGSTOP, Ctrl-Z, a debugger); False where the system does not tell."""
        if not hasattr(os, "waitid"):
            return False
        try:  # nothing is taken away from `exitcode`, which asks for ends alone
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def wake(self) -> None:
        """Let it go on if it stands still."""
        if hasattr(signal, "SIGCONT"):
            self._popen.send_signal(signal.SIGCONT)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        self._popen.send_signal(number)

    def kill(self, timeout_s: float | None = None) -> None:
        """End it at once, and what it started in its process group; reap it, if it ends within `timeout_s`."""
        if self._group_may_live:
            self._group_may_live = False  # its number may soon be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._popen.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)

    def memory_bytes(self) -> int | None:
        """What it holds in memory for itself alone, not shared with others; None where the system does not say."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                _, resident, shared, *_ = map(int, file.read().split())
        except (OSError, ValueError):  # it has ended; or no Linux
            return None
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, grace_s: float = 5.0) -> int:
        """SIGTERM, then SIGKILL after `grace_s`; the exit code."""
        self._popen.terminate()
        code = self.wait(grace_s)
        if code is None:
            self.kill()
            code = self._popen.wait()
        return code


def defer() -> None:
    """Interrupt nobody who computes, this thread and what it starts: after a wait they take their turn, ms later.

    Linux's SCHED_BATCH; elsewhere nothing changes. With all of a run but its learner deferred, two busy cores give the
    learner 14 % more updates/s.
    """
    if hasattr(os, "SCHED_BATCH"):
        _schedule_as(os.SCHED_BATCH)


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """`defer` what is started within, not the caller."""
    before = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    defer()
    try:
        yield
    finally:
        if before is not None:
            _schedule_as(before)


def _schedule_as(policy: int) -> None:
    with contextlib.suppress(OSError):  # not allowed here: then it is as fast as before
        os.sched_setscheduler(0, policy, os.sched_param(0))


def keep_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2 on nothing, before a socket gets the number: a child has its own there."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def start_child(
    entry: str,
    config: bytes,
    *,
    name: str,
    fds: Iterable[int] = (),
    environment: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Child:
    """Start a process that runs `entry` ("package.module:function") as `function(config, fds)`.

    `fds` keep their numbers in the child, so none is 0, 1 or 2 (`keep_standard_descriptors`). `without`: variables
    of ours that it does not get. Call it from the main thread: on Linux the child dies with the thread that started it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"start {name} from the main thread: children die with the thread that started them")
    fds = tuple(fds)
    variables = {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, "1"), **(environment or {})}
    for setting in _THREAD_SETTINGS:  # what the user set stays
        variables[setting] = os.environ.get(setting, variables[setting])
    for secret in without:
        variables.pop(secret, None)
    command = [sys.executable, "-m", "multiserverrl.processes", entry, str(os.getpid()), *map(str, fds)]
    popen = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=variables, pass_fds=fds, process_group=0
    )
    assert popen.stdin is not None
    with contextlib.suppress(BrokenPipeError), popen.stdin:  # it died at once: its exit code says so
        popen.stdin.write(config)
    return Child(name, popen)


class Question:
    """What another program says on its stdout; it runs from now on. Whoever asks calls `close`, answered or not."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # the program or the directory is not there
            self._popen = subprocess.Popen(command, cwd=directory, stdin=NOWHERE, stdout=PIPE, stderr=NOWHERE)

    def answer(self, timeout_s: float) -> bytes | None:
        """None when it is not there, fails, or needs longer than `timeout_s` from now on."""
        if self._popen is None:
            return None
        try:
            said, _ = self._popen.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return said if self._popen.returncode == 0 else None

    def close(self) -> None:
        """End the program, if it still runs."""
        if self._popen is not None:
            with self._popen:
                self._popen.kill()


def cause_of_exit(exitcode: int) -> str:
    """An exit code in words: "exit code 3", "signal SIGKILL"."""
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"signal {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"signal {-exitcode}"


def _die_with_parent(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(1)


def _main(arguments: list[str]) -> None:
    entry, parent_pid, *fds = arguments
    _die_with_parent(int(parent_pid))
    module, _, function = entry.partition(":")
    config = sys.stdin.buffer.read()
    getattr(importlib.import_module(module), function)(config, [int(fd) for fd in fds])


if __name__ == "__main__":
    _main(sys.argv[1:])
