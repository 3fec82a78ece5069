"""From which size on an answer's body is quicker by shared memory than by TCP: `python bench/body_sizes.py`.

One env on a core of its own, the client on another; both ways in turns, in slices of 0.1 s. Linux only.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZES = [1 << power for power in range(10, 21)]
SLICES, SLICE_S = 8, 0.1


class Bytes(gymnasium.Env[Any, Any]):
    """The same observation of `size` bytes at every step."""

    def __init__(self, size: int = 1) -> None:
        self.observation_space = spaces.Box(0, 255, (size,), np.uint8)
        self.action_space = spaces.Discrete(2)
        self._obs = np.zeros(size, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._obs, 0.0, False, False, {}


def step_us(env: Any) -> float:
    """Microseconds a step, over one slice."""
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SLICE_S:
        for _ in range(16):
            env.step(0)
        count += 16
    return elapsed / count * 1e6


def main() -> None:
    from multiserverrl.client import shared
    from multiserverrl.client.env import VirtualEnv
    from multiserverrl.testing.serving import serving

    shared.LEAST_BODY_BYTES = 0
    first, *_, last = sorted(os.sched_getaffinity(0))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.sched_setaffinity(0, {last})
    with serving("body_sizes:Bytes", count=2, workers=1, allow_arg="size") as server:
        os.sched_setaffinity(0, {first})
        print(f"{'bytes':>8} {'TCP us':>8} {'shared us':>10} {'ratio':>6}")
        for size in SIZES:
            arguments = {"size": size}
            with (
                VirtualEnv(server.url, arguments=arguments, shared_memory=False) as tcp,
                VirtualEnv(server.url, arguments=arguments) as mapped,
            ):
                assert mapped.uses_shared_memory and not tcp.uses_shared_memory
                for env in (tcp, mapped):
                    env.reset()
                    step_us(env)
                pairs = [(step_us(tcp), step_us(mapped)) for _ in range(SLICES)]
            by_tcp, by_block = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{size:8} {by_tcp:8.1f} {by_block:10.1f} {ratio:6.3f}")


if __name__ == "__main__":
    main()
