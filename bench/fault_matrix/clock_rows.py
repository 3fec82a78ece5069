"""A clock of the wall that jumps, at the server and at the client."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from clock_client import CARTPOLE, SCRIPTED
from matrix import Effort, FaultRow, Seen, Unavailable
from multiserverrl.client.api import describe

HOUR_S, EVERY_S = 3600, 0.4
TIME_TO_LIVE_S = 4.0
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
        serving.terminate()
        code = serving.wait(30)
    false_time_outs = len(told["errors"]) + told["reconnects"]
    in_time = TIME_TO_LIVE_S - 1.0 < freed_s < TIME_TO_LIVE_S + 3.0
    errors = f"; {'; '.join(told['errors'])}" if told["errors"] else ""
    return Seen(
        f"{told['jumps']} jumps of 1 to 2 h seen in {told['rounds']} rounds: slow steps, a client that is away, walks",
        f"false time-outs: {false_time_outs}; walks that differ: {int(not told['is_equal'])}; sessions that were left "
        f"behind freed after {freed_s:.1f} s of {TIME_TO_LIVE_S:.0f}; exit {code}{errors}",
        not false_time_outs and told["is_equal"] and in_time and min(told["jumps"], told["rounds"]) > 0 and code == 0,
    )


class _Jumping:
    """Writes what the clocks show from now on, by turns an hour ahead and behind."""

    def __init__(self, clock: pathlib.Path) -> None:
        self._clock, self._is_over = clock, threading.Event()
        self._thread = threading.Thread(target=self._run, name="jumping")
        self._thread.start()

    def _run(self) -> None:
        turn = 0
        while not self._is_over.wait(EVERY_S):
            turn += 1
            written = self._clock.with_suffix(".next")
            written.write_text(("+0", f"+{HOUR_S}", "+0", f"-{HOUR_S}", f"+{HOUR_S}", f"-{HOUR_S}")[turn % 6])
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
    while describe(url).free < 8 and time.monotonic() - began < 30:
        time.sleep(0.05)
    return time.monotonic() - began


ROWS: list[FaultRow] = [
    FaultRow("16", "wall clock jumps by an hour and two, to and fro", "nothing expires by it (monotonic time)", jump)
]
