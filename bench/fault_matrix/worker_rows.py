"""Faults of envs and env workers: killed, stopped, raising, loud, leaking."""

from __future__ import annotations

import dying_workers
import stuck_workers
import unruly_envs
from matrix import FaultRow

ROWS: list[FaultRow] = [
    FaultRow(
        "6",
        "env worker: kill -9, os._exit, segfault, past its memory limit",
        "its envs' episodes end, marked with the cause and the last words, and are made anew; all others bit-equal, "
        "at 90 % of their rate or more",
        dying_workers.run,
    ),
    FaultRow(
        "7",
        "env worker stopped (SIGSTOP) or `while True`: in a step, in a reset, idle, while an env is made",
        "the deadline, then as 6, within 1 s; never a hang",
        stuck_workers.run,
    ),
    FaultRow(
        "8",
        "env raises, prints 100 MB, changes folder, signals, umask, threads, leaks memory, crashes in a loop",
        "type, message and traceback at the client; frames whole; a worker too large is renewed between episodes; "
        "a loop backs off, is reported, and refuses new sessions with a hint",
        unruly_envs.run,
    ),
]
