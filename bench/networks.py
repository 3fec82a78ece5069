"""What each network costs: acting on a batch, and one update (forward, backward, Adam), in ms.

    python bench/networks.py [--device cpu|cuda] [--seconds 1]

Prints a table as docs/networks.md has it. One thread; the best of all repetitions.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.choice import encoder_for
from multiserverrl.train.networks.device import open_device
from multiserverrl.train.networks.tensors import tensors_of, weights_on
from multiserverrl.train.task import Task


class Row(NamedTuple):
    network: str
    dtype: str
    shape: tuple[int, ...]
    batch: int


ROWS = (
    Row("mlp", "float32", (4,), 128),
    Row("small", "bool", (10, 10, 4), 32),
    Row("small", "uint8", (2, 20, 90), 64),
    Row("nature", "uint8", (4, 84, 84), 32),
    Row("impala", "uint8", (4, 84, 84), 32),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    options = parser.parse_args()
    device = open_device(options.device, 1)
    print("| network | observation | weights | acting on 1 | acting on 64 | update, batch |")
    print("|---|---|---|---|---|---|")
    for row in ROWS:
        print(line_of(row, device, options.seconds), flush=True)


def line_of(row: Row, device: torch.device, seconds: float) -> str:
    task = Task(obs_shape=row.shape, num_actions=2, obs_dtype=row.dtype)
    encoder = encoder_for(TrainConfig(network=row.network), task)
    fresh = encoder.fresh(np.random.default_rng(0))
    count = sum(math.prod(shape) for _, shape in encoder.fields.values())
    snapshot = weights_on({name: array.copy() for name, array in fresh.items()}, device)

    def acting(size: int) -> Callable[[], object]:
        obs = pictures(row, size)

        def act() -> object:
            with torch.inference_mode():
                return encoder.forward(snapshot, tensors_of(obs, task, device)).cpu().numpy()

        return act

    learned = {name: tensor.requires_grad_() for name, tensor in weights_on(fresh, device).items()}
    optimiser = torch.optim.Adam(learned.values(), fused=True)
    obs = pictures(row, row.batch)

    def update() -> None:
        optimiser.zero_grad()
        encoder.forward(learned, tensors_of(obs, task, device)).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    one, many, learning = (1e3 * best_s(work, seconds) for work in (acting(1), acting(64), update))
    shape = " × ".join(map(str, row.shape))
    return f"| {row.network} | {shape} {row.dtype} | {count:,} | {one:.2f} | {many:.2f} | {learning:.2f}, {row.batch} |"


def pictures(row: Row, size: int) -> np.ndarray:  # type: ignore[type-arg]
    most = 256 if row.dtype == "uint8" else 2
    return np.random.default_rng(0).integers(0, most, (size, *row.shape)).astype(row.dtype)


def best_s(work: Callable[[], object], seconds: float) -> float:
    work()
    best, until_s = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        began_s = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began_s)
    return best


if __name__ == "__main__":
    main()
