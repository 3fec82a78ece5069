"""What a batch costs that is sampled from the replay buffer, and what a transition takes there.

    python bench/replay.py [--batch 128] [--batches 2000] [--sizes 50000,1000000]

Prioritised: drawing, the weights, gathering, and writing the new priorities back; where that costs more than 3 uniform
batches the last line says SHORT, and the exit code is 1. Frames: stacks of 4 of 84x84 bytes,
kept once a frame and put together when they are sampled, against stacks that are stored whole, at both ends of a
transition. (cpprb's prioritised buffer gives 2-3 M samples/s on such a machine, a sum tree in Python 0.5 M.)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.protocol import Updated
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import new_arrays
from multiserverrl.train.stores import replayed, store_for, store_layout
from multiserverrl.train.task import Task

REPEATS = 5
MOST = 3.0  # uniform batches that a prioritised one may cost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--sizes", default="50000,1000000", help="transitions in the replay buffer")
    arguments = parser.parse_args()
    dearest = prioritised_over_uniform(map(int, arguments.sizes.split(",")), arguments.batch, arguments.batches)
    print(f"\n{'stacks of 4':>11} {'batch 32 µs':>11} {'bytes a transition':>19}")
    (frames, frames_bytes), (whole, whole_bytes) = images(4), images(1)
    first, second = both(sampling(frames), sampling(whole), arguments.batches // 10)
    print(f"{'frames':>11} {first:11.1f} {frames_bytes:19,.0f}\n{'whole':>11} {second:11.1f} {whole_bytes:19,.0f}")
    print(f"\na prioritised batch costs {dearest:.2f} uniform ones, at most {MOST:g} asked: {verdict(dearest)}")
    return 0 if verdict(dearest) == "holds" else 1


def verdict(dearest: float) -> str:
    return "holds" if dearest <= MOST else "SHORT"


def prioritised_over_uniform(sizes: Iterable[int], batch: int, batches: int) -> float:
    """The largest ratio over these sizes."""
    dearest = 0.0
    print(f"{'transitions':>11} {'uniform µs':>11} {'prioritised':>11} {'ratio':>6} {'M samples/s':>12}")
    for size in sizes:
        config = TrainConfig(buffer_size=size, warmup_steps=1, batch_size=batch, n_step=1)
        uniform, prioritised = (vectors(replace(config, prioritised=wanted)) for wanted in (False, True))
        first, second = both(sampling(uniform), sampling(prioritised, batch), batches)
        print(f"{size:11,} {first:11.1f} {second:11.1f} {second / first:6.2f} {batch / second:12.2f}")
        dearest = max(dearest, second / first)
    return dearest


def sampling(store: Any, errors: int = 0) -> Callable[[], None]:
    """One batch, and what comes back from an update with it."""
    rng = np.random.default_rng(0)
    updated = Updated(0.0, rng.normal(size=errors).astype(np.float32) if errors else None)

    def sample() -> None:
        store.batch()
        store.learned(updated)

    return sample


def both(first: Callable[[], None], second: Callable[[], None], batches: int) -> tuple[float, float]:
    """The least of several turns of each: what else the machine does strikes both."""
    turns = [(each(first, batches), each(second, batches)) for _ in range(REPEATS)]
    return min(turn[0] for turn in turns), min(turn[1] for turn in turns)


def each(act: Callable[[], None], times: int) -> float:
    """µs."""
    for _ in range(times // 4):
        act()
    began_s = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - began_s) / times * 1e6


def vectors(config: TrainConfig) -> Any:
    """A full store of transitions of 4 numbers; priorities of all sizes."""
    store = store_of(config, Task(obs_shape=(4,), num_actions=2))
    rng, N = np.random.default_rng(0), 5000
    for number in range(config.buffer_size // N):
        obs = rng.normal(size=(2, N, 4)).astype(np.float32)
        store.take(steps_of(number, obs[0], obs[1]))
    if config.prioritised:
        store.replay.arrays["priority"][:] = rng.exponential(size=config.buffer_size)
    return store


def images(stack: int) -> tuple[Any, float]:
    """A full store of stacks of 4, of single frames or whole; bytes of all its arrays a transition."""
    size, N = 4000, 8
    config = TrainConfig(buffer_size=size, warmup_steps=1, batch_size=32, n_step=3, frame_stack=stack)
    kept, replayed.keeps_frames = replayed.keeps_frames, lambda config, obs: config.frame_stack > 1
    try:
        task = Task(obs_shape=(4, 84, 84), num_actions=4, obs_dtype="uint8", frame_stack=stack)
        store = store_of(config, task)
        rng = np.random.default_rng(0)
        for number in range(size // N + 8):
            obs = rng.integers(0, 256, (N, 84, 84) if stack > 1 else (N, 4, 84, 84), np.uint8)
            store.take(steps_of(number, obs, obs))
    finally:
        replayed.keeps_frames = kept
    return store, sum(array.nbytes for array in store.contents().values()) / size


def store_of(config: TrainConfig, task: Task) -> Any:
    algorithm = type("Declared", (), {"storage": "n_steps", "transition_fields": transition_fields(task)})()
    return store_for(config, algorithm, new_arrays(store_layout(config, algorithm)))


def transition_fields(task: Task) -> dict[str, tuple[str, tuple[int, ...]]]:
    vector = algorithm_for(TrainConfig(), Task(obs_shape=(4,), num_actions=2)).transition_fields
    return {**vector, "obs": (task.obs_dtype, task.obs_shape), "next_obs": (task.obs_dtype, task.obs_shape)}


def steps_of(number: int, obs: Any, next_obs: Any) -> RawSteps:
    N = len(obs)
    no = np.zeros(N, bool)
    return RawSteps(0, obs, np.zeros(N, np.int64), np.ones(N, np.float32), no, no, next_obs, ~no, 1, number)


if __name__ == "__main__":
    sys.exit(main())
