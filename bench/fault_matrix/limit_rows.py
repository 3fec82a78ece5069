"""Clients that want too much: slow, many, large, lying."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import greedy
import multiserverrl as msr
from matrix import Effort, FaultRow, Seen
from multiserverrl.testing.serving import serving, worker_pids
from scene import local_walk, walk

_MOST_GROWN_KB = 2 * (greedy.MOST_BYTES >> 10) + 2048  # a message as it came, and as it is handed on


class Peaks:
    """The most memory that processes had meanwhile, beyond what they had before, in kB (Linux)."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        for pid in pids:
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._before = [_status_kb(pid, "VmRSS") for pid in pids]

    def grown_kb(self) -> list[int]:
        """One number a process."""
        return [_status_kb(pid, "VmHWM") - before for pid, before in zip(self._pids, self._before, strict=True)]


def _status_kb(pid: int, name: str) -> int:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _attacked(url: str, times: int) -> Iterator[tuple[str, str, str]]:
    """(what, what it was refused with, what was wanted), one attack after the other."""
    for _ in range(times):
        for name, (refusal, wanted) in greedy.attacks().items():
            yield name, refusal(url), wanted


def want_too_much(effort: Effort) -> Seen:
    """Every attack between the steps of a live session on the same env worker; front and worker are weighed."""
    times = effort.times(1, 25)
    num_attacks = times * len(greedy.attacks())
    limits = {"max_message_bytes": greedy.MOST_BYTES, "body_s": 0.3, "handshake_s": 5.0}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving("CartPole-v1", count=4, workers=1, **limits))
        for _ in _attacked(server.url, 1):  # what is imported and cached at the first of a kind is no growth
            pass
        envs = msr.VirtualVectorEnv(server.url, num_envs=2)
        stack.callback(envs.close)
        peaks = Peaks([*server.pids(), *worker_pids(server)])
        coming, other = _attacked(server.url, times), dict[str, str]()

        def attack(step: int) -> None:
            name, got, wanted = next(coming)
            if got != wanted:
                other[name] = got

        digest = walk(envs, num_attacks, before_step=attack)
        front_kb, worker_kb = peaks.grown_kb()
    is_equal = digest == local_walk("CartPole-v1", 2, num_attacks)
    names = "; ".join(f"{name}: {got}" for name, got in other.items()) or "none"
    equal = "bit-equal" if is_equal else "DIFFERENT"
    return Seen(
        f"{num_attacks} requests of {len(greedy.attacks())} kinds, {times} of each",
        f"memory growth front {front_kb} kB, env worker {worker_kb} kB (at most {_MOST_GROWN_KB}; a message may have "
        f"{greedy.MOST_BYTES >> 10} kB); refused otherwise than promised: {names}; the live session's steps {equal}",
        not other and is_equal and max(front_kb, worker_kb) <= _MOST_GROWN_KB,
    )


ROWS: list[FaultRow] = [
    FaultRow(
        "14",
        "1 MiB header, oversized body, lying lengths, decompression bomb, huge declared shape",
        "refused before allocation, by the front and on a connection that an env worker has",
        want_too_much,
    ),
]
