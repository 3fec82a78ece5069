"""Where the processes of a measurement run: the client on one core, a server on another or on the same.

A figure without placement means nothing: a loopback round trip is several times longer between two cores
than on one, and a scheduler that is free to choose does so once for a whole run.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cores() -> tuple[int, int]:
    """The client's core, and that of servers that are placed `split`; the same where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process on one core, meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Strangers:
    """How busy the machine was meanwhile with what we did not start, as a share of one core; valid after the block."""

    share = 0.0

    def __enter__(self) -> Strangers:
        self._before = time.monotonic(), _busy_s(), _own_s()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed, busy, own = (
            now - then for now, then in zip((time.monotonic(), _busy_s(), _own_s()), self._before, strict=True)
        )
        self.share = max(0.0, busy - own) / elapsed


def _busy_s() -> float:
    """What all cores have computed since the machine came up, and what another machine took from them."""
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = (
        int(ticks) for ticks in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """What this process has computed, and the servers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Server(NamedTuple):
    """A running server: its process, and the line by which it said that it is up."""

    pid: int
    told: str


@contextlib.contextmanager
def server(command: list[str], core: int, said: str) -> Iterator[Server]:
    """`python COMMAND` on a core, up once it has printed a line with `said`; ended at the end."""
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(HERE), *_python_path()])}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            told = next((line for line in process.stdout if said in line), None)
            if told is None:
                errors.seek(0)
                raise SystemExit(f"{' '.join(command)} did not start:\n{errors.read()}")
            yield Server(process.pid, told)
        finally:
            process.terminate()
            process.wait(15)
            process.stdout.close()


@contextlib.contextmanager
def env_server(env_id: str, num_envs: int, core: int, *, workers: int = 1) -> Iterator[tuple[str, int]]:
    """Our own server, all of its processes on one core; its URL and its parent's process id."""
    command = ["-m", "multiserverrl", "serve", env_id, "--host", "127.0.0.1", "--port", "0"]
    command += ["--count", str(num_envs), "--workers", str(workers)]
    with server(command, core, "serving") as running:
        url = next(word for word in running.told.split() if word.startswith("http://"))
        yield url.rstrip(":,"), running.pid


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
