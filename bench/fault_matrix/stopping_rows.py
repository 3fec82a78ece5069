"""Faults of a server that is told to stop, or whose parent is killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil

from matrix import Effort, FaultRow, Seen, at_most
from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import MultiServerRLError, ServerStopping, SessionLost
from multiserverrl.testing.envs import count_of
from multiserverrl.testing.serving import children_of
from scene import descendants_of
from stopped_trains import GONE_WITHIN_S, stop_trains

SCRIPTED = "multiserverrl.testing.envs:Scripted"
EXIT_S = 10.0  # from the first signal to the end, at most
SHORT_STEP_S, LONG_STEP_S = 3.0, 600.0  # in the short one a server stops, and others are refused
AMPLE_S = 30.0  # for steps in flight, where they are to be answered


@dataclass
class Tally:
    """What was seen of all stops."""

    stops: int = 0
    slowest_s: float = 0.0
    second_signal_s: float = 0.0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)  # promises that were broken
    left: int = 0  # processes, shared-memory files, ports

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


class Stage:
    """A `serve` of its own, two clients in mid-step (one lent to an env worker, one by the front), one that idles."""

    def __init__(self, opened: contextlib.ExitStack, step_s: float, drain_s: float) -> None:
        folder = pathlib.Path(opened.enter_context(tempfile.TemporaryDirectory()))
        self.blocks = set(os.listdir("/dev/shm"))
        command = [sys.executable, "-m", "multiserverrl", "serve", SCRIPTED, "--host", "127.0.0.1", "--port", "0"]
        command += ["--count", "5", "--workers", "3", "--drain-s", str(drain_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        opened.callback(self.process.communicate)
        opened.callback(self.process.kill)
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        self.url = next(word for word in told.split() if word.startswith("http://")).rstrip(":")
        self.pids = [self.process.pid, *descendants_of(self.process.pid)]
        self.idle, lent, spread = VirtualEnv(self.url), VirtualEnv(self.url), VirtualVectorEnv(self.url, num_envs=2)
        self.idle.reset()
        script = {"how": "sleep", "at": 1, "sleep_s": step_s}
        lent.reset(options={**script, "path": str(folder / "lent")})
        spread.reset(options={**script, "path": str(folder / "spread")})
        self.steps = [_Step(lent, 0), _Step(spread, [0, 0])]
        for env in (self.idle, lent, spread):
            opened.callback(env.close)
        _wait_until(lambda: count_of(folder / "lent") >= 1 and count_of(folder / "spread") >= 2)

    def left(self) -> int:
        """Processes, shared-memory files and ports that are left; waits a moment for what is ending."""
        with contextlib.suppress(TimeoutError):
            _wait_until(lambda: not self._left())
        return self._left()

    def _left(self) -> int:
        processes = [pid for pid in self.pids if _lives(pid)]
        blocks = set(os.listdir("/dev/shm")) - self.blocks
        parts = urlsplit(self.url)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((parts.hostname, parts.port))
            except OSError:
                return len(processes) + len(blocks) + 1
        return len(processes) + len(blocks)


class _Step(threading.Thread):
    """A step on a thread of its own, and what came of it."""

    def __init__(self, env: Any, actions: Any) -> None:
        super().__init__(name="step")
        self._env, self._actions = env, actions
        self.is_answered, self.error = False, ""
        self.start()

    def run(self) -> None:
        try:
            obs = self._env.step(self._actions)[0]
            self.is_answered = bool(obs.reshape(-1, 2)[:, 0].tolist() == [1.0] * obs.reshape(-1, 2).shape[0])
        except SessionLost as error:
            self.error = str(error)


@contextlib.contextmanager
def _stage(step_s: float, drain_s: float) -> Iterator[Stage]:
    with contextlib.ExitStack() as opened:
        yield Stage(opened, step_s, drain_s)


def _stop_by(number: int, tally: Tally, drain_s: float) -> None:
    """One signal: the steps are answered, everybody else is told."""
    with _stage(SHORT_STEP_S, drain_s) as stage:
        began = time.monotonic()
        stage.process.send_signal(number)
        tally.expect(_is_refused(stage.url), "a new session was not refused as stopping")
        tally.expect("stopping" in _lost(stage.idle), "an idle client was not told")
        for step in stage.steps:
            step.join()
            tally.answered += step.is_answered
            tally.expect(step.is_answered, "a step in flight was not answered")
        tally.expect(stage.process.wait(60) == 0, "the exit code is not 0")
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)
        tally.left += stage.left()


def _stop_past_drain(tally: Tally, drain_s: float) -> None:
    """Steps that take longer than --drain-s: they are cut, and their clients told."""
    with _stage(LONG_STEP_S, drain_s) as stage:
        began = time.monotonic()
        stage.process.terminate()
        for step in stage.steps:
            step.join()
            tally.expect("stopping" in step.error, "a step that was cut was not told why")
        tally.expect(stage.process.wait(60) == 0, "the exit code is not 0")
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)
        tally.left += stage.left()


def _stop_twice(tally: Tally, drain_s: float) -> None:
    with _stage(LONG_STEP_S, 60.0) as stage:
        stage.process.send_signal(signal.SIGTERM)
        tally.expect(_is_refused(stage.url), "a new session was not refused as stopping")
        began = time.monotonic()
        stage.process.send_signal(signal.SIGTERM)
        tally.expect(stage.process.wait(60) == 0, "the exit code is not 0")
        tally.second_signal_s = max(tally.second_signal_s, time.monotonic() - began)
        for step in stage.steps:
            step.join()
            tally.expect(bool(step.error), "a step was answered by a server that was gone")
        tally.left += stage.left()


def _kill_parent(tally: Tally, drain_s: float) -> None:
    with _stage(LONG_STEP_S, drain_s) as stage:
        stage.process.kill()
        stage.process.wait()
        tally.left += stage.left()
        for step in stage.steps:
            step.join()
            tally.expect(bool(step.error), "a step was answered by a server that was gone")


def _stop_front(tally: Tally, drain_s: float) -> None:
    """SIGTERM to the front alone: its steps are answered, its parent starts another."""
    with _stage(SHORT_STEP_S, drain_s) as stage:
        first = children_of(stage.process.pid)
        os.kill(first[0], signal.SIGTERM)
        for step in stage.steps:
            step.join()
            tally.answered += step.is_answered
            tally.expect(step.is_answered, "a step in flight was not answered")
        _wait_until(lambda: children_of(stage.process.pid) not in (first, []))
        stage.idle.close()
        with contextlib.closing(VirtualEnv(stage.url, wait_s=AMPLE_S)) as env:
            env.reset()
        stage.pids += descendants_of(stage.process.pid)
        stage.process.terminate()
        tally.expect(stage.process.wait(60) == 0, "the exit code is not 0")
        tally.left += stage.left()


def stop_servers(effort: Effort) -> Seen:
    """Each manner of stopping a server, in mid-step."""
    tally, drain_s, times = Tally(), 5.0 if effort.is_whole else 2.5, effort.times(1, 5)
    manners: list[Callable[[], None]] = [
        lambda: _stop_by(signal.SIGTERM, tally, AMPLE_S),
        lambda: _stop_by(signal.SIGINT, tally, AMPLE_S),
        lambda: _stop_past_drain(tally, drain_s),
        lambda: _stop_twice(tally, drain_s),
        lambda: _kill_parent(tally, drain_s),
        lambda: _stop_front(tally, AMPLE_S),
    ]
    for _ in range(times):
        for manner in manners:
            manner()
            tally.stops += 1
    broken = f"; broken: {'; '.join(sorted(set(tally.wrong)))}" if tally.wrong else ""
    return Seen(
        f"{tally.stops} stops by SIGTERM, SIGINT, SIGTERM twice, kill -9 of the parent, SIGTERM to the front",
        f"{tally.answered} steps in flight answered; s to exit 0: {tally.slowest_s:.1f} at most, after a second signal "
        f"{tally.second_signal_s:.1f}; orphans, shared memory and ports left: {tally.left}{broken}",
        not tally.wrong and not tally.left,
        (at_most(EXIT_S, "s", "exit", tally.slowest_s), at_most(2, "s", "exit at twice", tally.second_signal_s)),
    )


def _is_refused(url: str) -> bool:
    """Whether a moment later sessions are refused as they are by a server that stops."""
    deadline = time.monotonic() + AMPLE_S
    while time.monotonic() < deadline:
        try:
            VirtualEnv(url).close()
        except ServerStopping:
            return True
        except MultiServerRLError:
            return False
    return False


def _lost(env: VirtualEnv) -> str:
    try:
        env.step(0)
    except SessionLost as error:
        return str(error)
    return ""


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s")
        time.sleep(0.01)


ROWS: list[FaultRow] = [
    FaultRow(
        "17", "SIGTERM, SIGINT, a second SIGTERM, parent killed: in mid-step",
        f"steps in flight answered, new sessions refused with a retry hint, exit 0 in {EXIT_S:.0f} s, nothing left",
        stop_servers,
    ),
    FaultRow(
        "17b", "`train` ended while it learns: kill -9 of its launcher, SIGTERM, SIGINT, SIGINT twice",
        "no process, port, shared memory or temporary file is left "
        f"after {GONE_WITHIN_S:.0f} s; exit code 128 + signal",
        stop_trains,
    ),
]  # fmt: skip
