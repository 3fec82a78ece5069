"""An env that does to its env worker whatever a real one may do, when a test says so; served as
`multiserverrl.testing.unruly:Unruly`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

from multiserverrl.testing.envs import Scripted

__all__ = ["Unruly"]

_leaked: list[bytearray] = []  # outlives every env of the process
_MB = 1_000_000


class Unruly(Scripted):
    """As `Scripted`, with more options for `how`:

    "segfault"; "say_exit" (a last line on stderr, then os._exit(3)); "hog" (1 GB of memory, 30 s at
    most); "leave" (sys.exit); "flood" (`mb` megabytes on `stream`, "stdout" or "stderr"); "mess" (changes folder,
    signal handlers and umask, closes stdin and stdout, starts a thread that never ends); "mute" (an error whose
    message cannot be had); "long" (an error of a megabyte); "spin_reset" (never returns from the reset after
    that step).
    `at_make`: also "spin", or "leak:MB": leaks so many megabytes in every step.
    """

    def __init__(self, render_mode: str | None = None, at_make: str = "") -> None:
        if at_make == "spin":
            _spin()
        kind, _, mb = at_make.partition(":")
        self._leak_mb = float(mb) if kind == "leak" else 0.0
        super().__init__(render_mode, at_make)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.is_armed and self.options.get("how") == "spin_reset" and self.steps >= self.options["at"]:
            _spin()
        return super().reset(seed=seed, options=options)

    def step(self, action: np.int64) -> Any:
        if self._leak_mb:
            _leaked.append(bytearray(b"x" * int(self._leak_mb * _MB)))
        return super().step(action)

    def _misbehave(self, reward: Any, info: dict[str, Any]) -> Any:
        how = self.options.get("how")
        if how == "flood":
            _flood(self.options["mb"], self.options["stream"])
        elif how in _WAYS:
            _WAYS[how]()
        return super()._misbehave(reward, info)


def _spin() -> None:
    while True:
        pass


def _say_exit() -> None:
    print("the script says: these are my last words", file=sys.stderr)
    os._exit(3)


def _hog() -> None:
    held = []
    for _ in range(64):
        held.append(bytearray(b"x" * (16 * _MB)))
        time.sleep(0.02)
    time.sleep(30.0)  # it is to be killed meanwhile


def _leave() -> None:
    sys.exit("the script says: leave")


def _flood(mb: int, stream: str) -> None:
    line = "x" * 99 + "\n"
    for _ in range(mb):
        getattr(sys, stream).write(line * (_MB // len(line)))
    getattr(sys, stream).flush()


def _mess() -> None:
    os.chdir(tempfile.gettempdir())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.umask(0o777)
    for fd in (0, 1):
        os.close(fd)
    threading.Thread(target=threading.Event().wait, name="never ends").start()


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _mute() -> None:
    raise _MuteError


def _long() -> None:
    raise ValueError("y" * _MB)


_WAYS = {
    "segfault": lambda: ctypes.string_at(0),
    "say_exit": _say_exit,
    "hog": _hog,
    "leave": _leave,
    "mess": _mess,
    "mute": _mute,
    "long": _long,
}
