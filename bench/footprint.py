"""The row about memory: what all processes of a server hold together (PSS), with every env stepping.

Pages that several processes map are shared out among them, this one too: it maps the same libraries.
"""

from __future__ import annotations

import pathlib

import numpy as np

import multiserverrl as msr
import placement
from rows import Part, Row, Settings, Start

NUM_ENVS, WORKERS, STEPS = 64, 2, 500


def descendants(pid: int) -> list[int]:
    """The process and all that came of it."""
    children: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended since
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found, at = [pid], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found


def pss_bytes(pid: int) -> int:
    """The proportional share of the memory that a process maps."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def server_memory(settings: Settings) -> Start:
    """One start of a server that holds a session with all of its envs, after some steps."""
    with placement.env_server("CartPole-v1", NUM_ENVS, settings.other_core, workers=WORKERS) as (url, pid):
        envs = msr.VirtualVectorEnv(url, num_envs=NUM_ENVS, autoreset_mode="same_step")
        envs.reset(seed=0)
        for actions in np.random.default_rng(7).integers(0, 2, (STEPS, NUM_ENVS)):
            envs.step(actions)
        total_mb = sum(pss_bytes(one) for one in descendants(pid)) / 1e6
        envs.close()
    return Start(Part(0.0, total_mb, total_mb))


ROWS = [
    Row("M", "server of 64 CartPole, 2 workers (PSS)", "-", 250, server_memory, "MB", 1.0, is_at_most=True, digits=0)
]
