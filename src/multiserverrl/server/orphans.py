"""The end of what a front's env workers started, when the front itself cannot see to it any more (Linux).

A front gets a mark in its environment, which all that descends from it inherits. When it is dead, whatever still
bears the mark is ended. No other process is touched: a mark is drawn anew for each front, and who began a session
of its own (setsid) meant to live on, as it does when its env worker alone dies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time

from multiserverrl.observe.log import log

__all__ = ["MARK_VARIABLE", "end_marked", "new_mark"]

MARK_VARIABLE = "MULTISERVERRL_FRONT"
_MOST_S = 2.0  # for those who are killed to be gone; one that the kernel holds up is left


def new_mark() -> str:
    """What no other process bears."""
    return secrets.token_hex(16)


def end_marked(marks: list[str]) -> None:
    """Kill (SIGKILL) the processes of this user and session that bear one of these marks, until there are none."""
    if sys.platform != "linux" or not marks:
        return
    wanted = {f"{MARK_VARIABLE}={mark}".encode() for mark in marks}
    deadline, ended = time.monotonic() + _MOST_S, set()
    while found := _bearers(wanted):  # one that we end may have started another meanwhile
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(found)
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)
    if ended:
        log("orphans_ended", pids=sorted(ended))


def _bearers(wanted: set[bytes]) -> list[int]:
    found, session = [], os.getsid(0)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:  # ended, or another user's
            if not wanted.isdisjoint(file.read().split(b"\0")) and os.getsid(int(name)) == session:
                found.append(int(name))
    return found
