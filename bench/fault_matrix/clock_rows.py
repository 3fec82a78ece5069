"""A clock of the wall that jumps, at the server and at the client."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from clock_client import CARTPOLE, SCRIPTED
from matrix import Effort, FaultRow, Seen, Unavailable, at_most
from multiserverrl.client.api import describe

HOUR_S, EVERY_S = 3600, 0.4
TIME_TO_LIVE_S, GIVE_UP_S = 4.0, 60.0
_SLEEP = "import select, time\ntime.sleep = lambda s: select.select([], [], [], s) and None\n"  # libfaketime breaks it
HERE = pathlib.Path(__file__).resolve().parent


def jump(effort: Effort) -> Seen:
    """The clocks of both jump by an hour and two, again and again, while all that has a deadline is tried."""
    seconds = effort.times(5, 120)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        clock = pathlib.Path(folder, "clock")
        opened.callback(_clean_up, set(os.listdir("/dev/shm")))
        clock.write_text("+0")
        faked = {**os.environ, **_faked(clock)}
        pathlib.Path(folder, "sitecustomize.py").write_text(_SLEEP)
        command = [sys.executable, "-m", "multiserverrl", "serve", CARTPOLE, SCRIPTED, "--host", "127.0.0.1"]
        command += ["--port", "0", "--count", "8", "--time-to-live-s", str(TIME_TO_LIVE_S)]
        serving = subprocess.Popen(command, env=faked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        opened.callback(serving.communicate)
        opened.callback(serving.kill)
        assert serving.stdout is not None
        url = next(word for word in serving.stdout.readline().split() if word.startswith("http://")).rstrip(":")
        jumping = _Jumping(clock)
        opened.callback(jumping.end)
        client = [sys.executable, str(HERE / "clock_client.py"), url, str(seconds)]
        told = json.loads(subprocess.run(client, env=faked, stdout=subprocess.PIPE, check=True, timeout=300).stdout)
        freed_s = _freed_after(url)
        trained = _train(folder, faked, jumping, effort.times(150, 475))
        serving.terminate()
        code = serving.wait(60)
    false_time_outs = len(told["errors"]) + told["reconnects"]
    errors = f"; {'; '.join(told['errors'])}" if told["errors"] else ""
    return Seen(
        f"{told['jumps']} jumps of 1 to 2 h seen in {told['rounds']} rounds: slow steps, a client that is away, walks",
        f"false time-outs: {false_time_outs}; walks that differ: {int(not told['is_equal'])}; sessions that were left "
        f"behind freed after {freed_s:.1f} s of {TIME_TO_LIVE_S:.0f}; exit {code}{errors}; "
        f"a run with the same clock: {trained.text}",
        not false_time_outs
        and told["is_equal"]
        and TIME_TO_LIVE_S - 1.0 < freed_s < GIVE_UP_S
        and min(told["jumps"], told["rounds"]) > 0
        and code == 0
        and trained.is_well,
        (at_most(TIME_TO_LIVE_S + 3.0, "s", "sessions freed", freed_s),),
    )


class _Trained(NamedTuple):
    is_well: bool
    text: str


def _train(folder: str, faked: dict[str, str], jumping: _Jumping, stop_at_return: int) -> _Trained:
    """CartPole-v1 to that return, with a server of its own; all of its processes have the clock that jumps."""
    run_dir, began, turns = pathlib.Path(folder, "run"), time.monotonic(), jumping.turns
    command = [sys.executable, "-m", "multiserverrl", "train", CARTPOLE, "--run-dir", str(run_dir)]
    command += ["--episodes", "500", "--stop-at-return", str(stop_at_return)]
    told = subprocess.run(
        command, env={**faked, "MULTISERVERRL_LOG": "info"}, capture_output=True, text=True, check=False, timeout=300
    )
    took_s, restarts = time.monotonic() - began, len(re.findall("process_restarted|worker_restarted", told.stderr))
    if told.returncode:
        return _Trained(False, f"exit code {told.returncode}: {told.stderr[-300:]}")
    result = json.loads((run_dir / "result.json").read_text())
    hours = set(re.findall(r"^\d+-\d+-\d+T(\d+)", told.stderr, re.MULTILINE))  # that its log shows
    is_well = result["solved"] and result["faults"] == restarts == 0 and 0 < result["wall_s"] < took_s
    solved = "solved" if result["solved"] else "not solved"
    return _Trained(
        is_well,
        f"{solved} in {result['wall_s']:.1f} s by its own clock, {took_s:.1f} s with start and end, "
        f"{jumping.turns - turns} jumps meanwhile (its log shows {len(hours)} hours), "
        f"faults {result['faults']}, processes started again {restarts}",
    )


class _Jumping:
    """Writes what the clocks show from now on, by turns an hour ahead and behind."""

    def __init__(self, clock: pathlib.Path) -> None:
        self._clock, self._is_over, self.turns = clock, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, name="jumping")
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self.turns += 1
            written = self._clock.with_suffix(".next")
            written.write_text(("+0", f"+{HOUR_S}", "+0", f"-{HOUR_S}", f"+{HOUR_S}", f"-{HOUR_S}")[self.turns % 6])
            written.rename(self._clock)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()


def _faked(clock: pathlib.Path) -> dict[str, str]:
    """What lets a process read the wall's clock from a file, and leaves the monotonic one alone."""
    found = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise Unavailable("it needs libfaketime (Debian, Ubuntu: apt install libfaketime)")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(clock.parent), os.environ.get("PYTHONPATH", "")])),
    }


def _clean_up(before: set[str]) -> None:
    """What libfaketime left in shared memory of processes that were killed."""
    for name in set(os.listdir("/dev/shm")) - before:
        if name.startswith(("faketime_shm_", "sem.faketime_sem_")):
            pathlib.Path("/dev/shm", name).unlink(missing_ok=True)


def _freed_after(url: str) -> float:
    began = time.monotonic()
    while describe(url).free < 8 and time.monotonic() - began < GIVE_UP_S:
        time.sleep(0.05)
    return time.monotonic() - began


ROWS: list[FaultRow] = [
    FaultRow("16", "wall clock jumps by an hour and two, to and fro", "nothing expires by it (monotonic time)", jump)
]
