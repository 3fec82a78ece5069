"""`multiserverrl train` as a process with all that belongs to it: watched line by line, killed as a whole."""

from __future__ import annotations

import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from scene import command_of, descendants_of

DEADLINE_S = 300.0  # tells a run that hangs from a slow machine


class TrainingRun:
    """A run; `lines` grow with what it says on the screen and in its log. Made by `training`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str, *, count: int = 1) -> re.Match[str]:
        """The n-th line that has the pattern in it. RuntimeError when the run ends without, or takes too long."""
        self.wait_until(lambda: len(self.all(pattern)) >= count, f"{pattern!r} is said")
        return self.all(pattern)[count - 1]

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """RuntimeError when it does not become so."""
        until_s = time.monotonic() + DEADLINE_S
        while not is_so():
            if self.process.poll() is not None:
                self._reader.join(5.0)
                if is_so():
                    return
                raise RuntimeError(f"the run ended with {self.process.returncode} before {what}: {self.lines[-5:]}")
            if time.monotonic() > until_s:
                raise RuntimeError(f"{what} did not come in {DEADLINE_S:.0f} s: {self.lines[-5:]}")
            time.sleep(0.01)

    def all(self, pattern: str) -> list[re.Match[str]]:
        return [match for line in list(self.lines) if (match := re.search(pattern, line))]

    def pids(self, names: Iterable[str] = ("",)) -> list[int]:
        """The launcher and all below it whose command line has one of the names."""
        pids = [self.process.pid, *descendants_of(self.process.pid)]
        return [pid for pid in pids if any(name in command_of(pid) for name in names)]

    def kill(self) -> None:
        """SIGKILL to all of its processes; none is left."""
        pids = self.pids()
        for pid in pids:
            _kill(pid)
        self.process.wait(DEADLINE_S)
        until_s = time.monotonic() + DEADLINE_S
        while any(_is_alive(pid) for pid in pids) and time.monotonic() < until_s:
            time.sleep(0.01)

    def end(self, number: int = signal.SIGINT) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


@contextmanager
def training(*arguments: object) -> Iterator[TrainingRun]:
    """`train` with these arguments, its log on; nothing of it is left afterwards."""
    command = [sys.executable, "-m", "multiserverrl", "train", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "MULTISERVERRL_LOG": "info"},
    )
    run = TrainingRun(process)
    try:
        yield run
    finally:
        run.kill()
        run._reader.join(DEADLINE_S)
        assert process.stdout is not None
        process.stdout.close()


def limit_files(pids: Iterable[int], most_bytes: int) -> None:
    """From now on these processes can write no file beyond so many bytes; -1: as long as they like."""
    for pid in pids:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes if most_bytes >= 0 else hard, hard))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _is_alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
