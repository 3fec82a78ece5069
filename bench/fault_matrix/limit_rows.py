"""Clients that want too much: slow, many, large, lying."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import resource
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

import greedy
import multiserverrl as msr
import placement
from matrix import Effort, FaultRow, Figure, Seen, at_least, at_most
from multiserverrl.testing.serving import serving, worker_pids
from scene import local_walk, percentile, walk

_TAKEN_A_SECOND = 250  # connections by the server; one that waits for that has not come yet
_MOST_RATIO = 2.0
_STEPS_A_SLICE = 100
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_MOST_GROWN_KB = 2 * (greedy.MOST_BYTES >> 10) + 2048  # a message as it came, and as it is handed on
_BELIEVED_KB = 32 << 10  # whoever believes one of the attacks takes 64 MiB or more


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
    body_s = 0.3 if effort.judges_figures else 2.0  # what is late is refused as late, not as too much
    limits = {"max_message_bytes": greedy.MOST_BYTES, "body_s": body_s, "handshake_s": 10.0}
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
        not other and is_equal and max(front_kb, worker_kb) < _BELIEVED_KB,
        (at_most(_MOST_GROWN_KB, "kB", "memory growth", max(front_kb, worker_kb)),),
    )


def _held_kb(pid: int) -> int:
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


class Crowd:
    """Processes of `crowd.py`, each with so many clients, on one core; ended at the end."""

    def __init__(self, kind: str, url: str, counts: list[int], core: int, *, gives_way: bool) -> None:
        command = [sys.executable, str(pathlib.Path(__file__).with_name("crowd.py")), kind, url]
        self._processes = [
            subprocess.Popen(
                ["taskset", "-c", str(core), *command, str(count), *(["--gives-way"] if gives_way else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **_ONE_THREAD},
            )
            for count in counts
        ]  # fmt: skip

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def has_said(self) -> bool:
        """Whether each of them has said something since."""
        streams = [process.stdout for process in self._processes]
        return len(select.select(streams, [], [], 0)[0]) == len(streams)

    def lines(self) -> list[str]:
        """What each says next; waits for it."""
        return [_line(process) for process in self._processes]

    def go_on(self) -> None:
        """Tell them all."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a crowd's process has died")
    return line.strip()


class Live:
    """Two live sessions whose steps are timed: one that its env worker answers itself, one by way of the front."""

    def __init__(self, url: str) -> None:
        self._lent = msr.VirtualVectorEnv(url, num_envs=1)
        self._fronted = msr.VirtualVectorEnv(url, num_envs=1, checksum=True)  # coded frames are the front's
        self._actions = np.zeros(1, np.int64)
        for envs in (self._lent, self._fronted):
            envs.reset(seed=0)

    def close(self) -> None:
        self._lent.close()
        self._fronted.close()

    def slice(self) -> tuple[list[float], list[float]]:
        """Seconds of some steps of each."""
        return self._timed(self._lent), self._timed(self._fronted)

    def _timed(self, envs: msr.VirtualVectorEnv) -> list[float]:
        times, now, step = [], time.perf_counter, envs.step
        for _ in range(_STEPS_A_SLICE):
            began = now()
            step(self._actions)
            times.append(now() - began)
        return times

    def p99_us(self, is_over: Callable[[], bool]) -> tuple[float, float]:
        """The 99th percentile of each one's steps until then."""
        lent, fronted = list[float](), list[float]()
        while True:
            parts = self.slice()
            lent += parts[0]
            fronted += parts[1]
            if is_over():
                return 1e6 * percentile(lent, 0.99), 1e6 * percentile(fronted, 0.99)

    def calm_us(self, slices: int) -> tuple[float, float]:
        """The same with nothing else going on."""
        left = iter(range(slices))
        return self.p99_us(lambda: next(left, None) is None)


class Crowded:
    """A server with two live sessions, and what becomes of them while others come in crowds."""

    def __init__(self, effort: Effort, stack: contextlib.ExitStack) -> None:
        self.cores = placement.cores()
        self.slices, self.is_bad, self.told = effort.times(20, 100), False, list[str]()
        self.figures, self._gives_way = list[Figure](), effort.judges_figures
        self.calms = list[tuple[float, float]]()  # p99 with nothing else going on, between the crowds
        self.compared = list[tuple[str, tuple[float, float]]]()
        self.noise_us = effort.times(10_000, 0)  # of a percentile of a few steps on a machine that does other things
        limits = {"handshake_s": effort.times(6, 50), "body_s": effort.times(6, 50), "max_sessions_per_client": 2048}
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, soft)
        stack.enter_context(placement.pinned(self.cores[0]))
        self.server = stack.enter_context(serving("CartPole-v1", count=1100, workers=2, **limits))
        self.limit_s = float(limits["handshake_s"])
        os.sched_setaffinity(self.server.pids()[0], {self.cores[1]})
        self.live = Live(self.server.url)
        stack.callback(self.live.close)

    def crowd(self, kind: str, counts: list[int]) -> Crowd:
        return Crowd(kind, self.server.url, counts, self.cores[1], gives_way=self._gives_way)

    def held_kb(self) -> float:
        """What the front and the env workers hold, but for files: crowds map them, too."""
        return sum(_held_kb(pid) for pid in [*self.server.pids(), *worker_pids(self.server)])

    def num_descriptors(self) -> int:
        """The front's: what is in its backlog has none yet."""
        return len(os.listdir(f"/proc/{self.server.pids()[0]}/fd"))

    def look_calm(self) -> None:
        """Note how long the steps take with nobody else there; the median of all such looks is what counts."""
        self.calms.append(self.live.calm_us(self.slices))

    def judge(self) -> str:
        """How much longer the steps took in each crowd than without; as text."""
        calm, worst = [statistics.median(kind) for kind in zip(*self.calms, strict=True)], 0.0
        for what, then in self.compared:
            ratios = [after / before for after, before in zip(then, calm, strict=True)]
            loud = (ratio for ratio, after in zip(ratios, then, strict=True) if after > self.noise_us)
            worst = max(worst, *loud, 0.0)
            self.told.append(f"{what}: p99 {then[0]:.0f} µs by the env worker ({ratios[0]:.2f}×), "
                             f"{then[1]:.0f} µs by the front ({ratios[1]:.2f}×)")  # fmt: skip
        self.figures.append(at_most(_MOST_RATIO, "times undisturbed", "p99 of live sessions' steps", worst))
        return "; ".join([f"undisturbed p99 {calm[0]:.0f} and {calm[1]:.0f} µs", *self.told])

    def note(self, text: str, *, holds: bool = True) -> None:
        self.is_bad |= not holds
        self.told.append(text)


def _slow(crowded: Crowded, count: int) -> None:
    crowded.look_calm()
    with crowded.crowd("drip", [count]) as crowd:
        crowd.lines()
        during = crowded.live.p99_us(crowd.has_said)
        told = json.loads(crowd.lines()[0])
    crowded.compared.append((f"{count} heads and bodies a byte at a time", during))
    crowded.figures.append(at_most(count / _TAKEN_A_SECOND + crowded.limit_s + 3, "s", "all slow cut", told["last_s"]))
    crowded.note(f"{told['cut']} cut by {told['last_s']:.1f} s", holds=told["cut"] == count)


def _silent(crowded: Crowded, count: int) -> None:
    crowded.look_calm()
    before_kb = crowded.held_kb()
    here = crowded.num_descriptors() + count
    with crowded.crowd("silent", [count]) as crowd:
        # where they are slow to come, the first have been cut before the last is there
        arriving = crowded.live.p99_us(lambda: crowded.num_descriptors() >= here or crowd.has_said())
        crowd.lines()
        each_kb = (crowded.held_kb() - before_kb) / count
        idle = crowded.live.calm_us(crowded.slices)
        still = 0 if crowd.has_said() else count  # on a slow machine that took longer than they may be silent
        told = json.loads(crowd.lines()[0])
    crowded.compared.append((f"{count} connections arrive", arriving))
    crowded.compared.append(("idle", idle))
    crowded.figures.append(at_least(count, "connections", "silent, while steps were timed,", still))
    crowded.note(f"{each_kb:.1f} kB each, {told['cut']} cut", holds=told["cut"] == count)


def _idle_sessions(crowded: Crowded, count: int) -> None:
    crowded.look_calm()
    before_kb = crowded.held_kb()
    with crowded.crowd("sessions", [count]) as crowd:
        crowd.lines()
        each_kb = (crowded.held_kb() - before_kb) / count
        idle = crowded.live.calm_us(crowded.slices)
        crowd.go_on()
        crowd.lines()
    crowded.compared.append((f"{count} idle sessions", idle))
    crowded.note(f"{each_kb:.1f} kB each")


def _all_at_once(crowded: Crowded, count: int) -> None:
    crowded.look_calm()
    with crowded.crowd("reconnect", [count // 2] * 2) as crowd:
        crowd.lines()
        crowd.go_on()
        during = crowded.live.p99_us(crowd.has_said)
        back_s = [one for line in crowd.lines() for one in json.loads(line)["back_s"]]
        crowd.go_on()
        crowd.lines()
    crowded.compared.append((f"{count} clients cut at once", during))
    crowded.note(f"99 % back in {percentile(back_s, 0.99):.1f} s", holds=len(back_s) == count)


def come_in_crowds(effort: Effort) -> Seen:
    """Clients and env workers have one core; the front has the other, with the crowd, which gives way to it."""
    count = effort.times(100, 1000)
    with contextlib.ExitStack() as stack:
        crowded = Crowded(effort, stack)
        _slow(crowded, count)
        _silent(crowded, 9 * count)
        _all_at_once(crowded, count)
        _idle_sessions(crowded, count)
        crowded.look_calm()
        seen = crowded.judge()
    done = f"{count} slow, {9 * count} silent, {count} idle sessions, {count} at once"
    return Seen(done, seen, not crowded.is_bad, tuple(crowded.figures))


ROWS: list[FaultRow] = [
    FaultRow(
        "13",
        "slow-loris heads and bodies; 9,000 idle connections; 1,000 idle sessions; 1,000 clients back at once",
        f"cut at limits; p99 of live sessions' steps at most {_MOST_RATIO:g}× of undisturbed; all back",
        come_in_crowds,
    ),
    FaultRow(
        "14",
        "1 MiB header, oversized body, lying lengths, decompression bomb, huge declared shape",
        "refused before allocation, by the front and on a connection that an env worker has",
        want_too_much,
    ),
]
