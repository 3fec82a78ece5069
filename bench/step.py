"""Steps per second through the env server, against a raw-TCP reference in the same run.

    python bench/step.py [--starts 3] [--seconds 2] [--repeats 3] [--rows W1,W3]

Placement `split`: this client on one core, every process of the server on another. Each start brings
up both servers afresh and measures them in turns (reference, ours, reference, …); a row's figure is the
median over the starts of ours divided by the reference, with its range. A step is one env's step.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402 - after the threads are set

import multiserverrl as msr  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import raw_tcp  # noqa: E402

ENV_ID, OBS_BYTES = "CartPole-v1", 16


class Row(NamedTuple):
    """One line of the table."""

    name: str
    what: str
    num_envs: int
    placement: str
    wanted: float | None


ROWS = [
    Row("W1", "one CartPole env", 1, "split", 0.5),
    Row("W2", "8 CartPole envs, one message", 8, "split", None),
    Row("W3", "64 CartPole envs, one worker", 64, "split", 0.85),
    Row("W1s", "one CartPole env", 1, "same", None),
    Row("W3s", "64 CartPole envs, one worker", 64, "same", None),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def server(command: list[str], core: int, said: str) -> Iterator[None]:
    """A server process pinned to a core, up once it has printed a line with `said`, ended at the end."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not any(said in line for line in process.stdout):
            raise SystemExit(f"{' '.join(command)} did not start")
        yield
    finally:
        process.terminate()
        process.wait(15)


def steps_per_s(step: Callable[[Any], Any], actions: Any, num_envs: int, seconds: float) -> float:
    """How many env steps a second `step` makes; looks at the clock seldom."""
    stride, done, index = max(1, 256 // num_envs), 0, 0
    began = time.perf_counter()
    while True:
        for _ in range(stride):
            step(actions[index])
            index = (index + 1) % len(actions)
        done += stride * num_envs
        elapsed = time.perf_counter() - began
        if elapsed > seconds:
            return done / elapsed


@contextlib.contextmanager
def reference(row: Row, core: int, actions: Any) -> Iterator[Callable[[float], float]]:
    port = free_port()
    with server([str(pathlib.Path(raw_tcp.__file__)), str(port), ENV_ID, str(row.num_envs)], core, "ready"):
        client = raw_tcp.Client(port, row.num_envs, OBS_BYTES)
        listed = actions.tolist()
        yield lambda seconds: steps_per_s(client.step, listed, row.num_envs, seconds)
        client.close()


@contextlib.contextmanager
def ours(row: Row, core: int, actions: Any) -> Iterator[Callable[[float], float]]:
    port = free_port()
    command = [
        "-m",
        "multiserverrl",
        "serve",
        ENV_ID,
        "--port",
        str(port),
        "--count",
        str(row.num_envs),
        "--workers",
        "1",
    ]
    with server(command, core, "serving"):
        url = f"http://127.0.0.1:{port}"
        if row.num_envs == 1:
            env = msr.VirtualEnv(url)
            env.reset(seed=0)

            def step(action: Any) -> None:
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()

            yield lambda seconds: steps_per_s(step, actions[:, 0].tolist(), 1, seconds)
            env.close()
        else:
            envs = msr.VirtualVectorEnv(url, num_envs=row.num_envs, autoreset_mode="same_step")
            envs.reset(seed=0)
            yield lambda seconds: steps_per_s(envs.step, actions, row.num_envs, seconds)
            envs.close()


def measure(row: Row, starts: int, seconds: float, repeats: int) -> tuple[list[float], list[float], list[float]]:
    """(reference, ours, ratio) of each start."""
    cores = sorted(os.sched_getaffinity(0))
    here, there = cores[0], cores[-1] if row.placement == "split" else cores[0]
    actions = np.random.default_rng(7).integers(0, 2, (4096, row.num_envs))
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    os.sched_setaffinity(0, {here})
    try:
        for _ in range(starts):
            with reference(row, there, actions) as run_reference, ours(row, there, actions) as run_ours:
                run_reference(0.3), run_ours(0.3)  # warm
                pairs = [(run_reference(seconds), run_ours(seconds)) for _ in range(repeats)]
            yardstick = statistics.median(pair[0] for pair in pairs)
            own = statistics.median(pair[1] for pair in pairs)
            for column, value in zip(found, (yardstick, own, own / yardstick), strict=True):
                column.append(value)
    finally:
        os.sched_setaffinity(0, cores)
    return found


def shown(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Median (range)."""
    low, middle, high = (f(values) / scale for f in (min, statistics.median, max))
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS))
    arguments = parser.parse_args()
    chosen = arguments.rows.split(",")
    print(
        f"{'row':4} {'what':32} {'placed':6} {'raw TCP, k steps/s':22} {'ours, k steps/s':22} "
        f"{'ours / raw TCP':20} wanted"
    )
    for row in ROWS:
        if row.name not in chosen:
            continue
        raw, own, ratio = measure(row, arguments.starts, arguments.seconds, arguments.repeats)
        wanted = "" if row.wanted is None else f">= {row.wanted}"
        print(
            f"{row.name:4} {row.what:32} {row.placement:6} {shown(raw, 1e3):22} {shown(own, 1e3):22} "
            f"{shown(ratio, digits=3):20} {wanted}",
            flush=True,
        )


if __name__ == "__main__":
    main()
