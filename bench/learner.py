"""What a whole run leaves of the learner's speed: updates/s in `multiserverrl train` against a bare loop of updates.

    python bench/learner.py [--starts 3] [--seconds 6] [--backends numpy,torch]

Both make the same update (128 transitions, 4-128-128-2). The run's replay ratio is so high that its learner always
has one to make: it samples, publishes, writes checkpoints and shares the machine with the run's other processes. The
bare loop has its batch ready, before and after the run, on the same cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from multiserverrl.observe.metrics import read_metrics
from rows import Row, Start, heading, ratio, shown

BACKENDS = ("numpy", "torch")
WARM_S = 1.0
WANTED = 0.85
UNIT: dict[str, Any] = {"unit": "updates/s", "scale": 1.0}
BARE = """
import sys, time
import numpy as np
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task
backend, seconds = sys.argv[1], float(sys.argv[2])
rng = np.random.default_rng(0)
obs, next_obs = rng.normal(size=(2, 128, 4)).astype(np.float32)
batch = {"obs": obs, "next_obs": next_obs, "action": rng.integers(0, 2, 128),
         "reward": rng.normal(size=128).astype(np.float32), "discount": np.full(128, 0.9, np.float32)}
learner = algorithm_for(TrainConfig(backend=backend), Task((4,), 2)).init()
def rate(seconds):
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        learner.update(batch, 0)
        count += 1
    return count / elapsed
rate(0.5)
print(rate(seconds))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each side")
    parser.add_argument("--backends", default=",".join(BACKENDS))
    arguments = parser.parse_args()
    print(heading())
    for backend in arguments.backends.split(","):
        starts = [one_start(backend, arguments.seconds) for _ in range(arguments.starts)]
        row = Row(
            backend, "updates/s of a run's learner", "bare loop", WANTED, lambda _, b=backend: one_start(b), **UNIT
        )
        print(shown(row, starts), flush=True)
    return 0


def one_start(backend: str, seconds: float = 6.0) -> Start:
    """The bare loop's rate is the mean of before and after."""
    before = bare(backend, seconds / 2)
    under_load = in_a_run(backend, seconds)
    return Start(ratio(statistics.mean([before, bare(backend, seconds / 2)]), under_load))


def bare(backend: str, seconds: float) -> float:
    command = [sys.executable, "-c", BARE, backend, str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_a_run(backend: str, seconds: float) -> float:
    """Updates/s between the first second of learning and the last line of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = ["--backend", backend, "--replay-ratio", "1000", "--stop-at-return", "1e9", "--run-dir", str(run)]
        command = [sys.executable, "-m", "multiserverrl", "train", "CartPole-v1", *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            lines = _lines_of(run / "metrics.jsonl", WARM_S + seconds)
        finally:
            process.terminate()
            process.wait(60.0)
        first, last = next(line for line in lines if line["wall_s"] >= lines[0]["wall_s"] + WARM_S), lines[-1]
        return (last["updates"] - first["updates"]) / (last["wall_s"] - first["wall_s"])


def _lines_of(path: Path, seconds: float) -> list[dict[str, Any]]:
    """The metrics since the first updates, once there are so many seconds of them."""
    give_up_at_s = time.monotonic() + 60.0 + seconds
    while time.monotonic() < give_up_at_s:
        time.sleep(0.2)
        lines = [line for line in read_metrics(path) if line["updates"]] if path.exists() else []
        if lines and lines[-1]["wall_s"] - lines[0]["wall_s"] >= seconds:
            return lines
    raise TimeoutError(f"no {seconds} s of updates in {path}")


if __name__ == "__main__":
    sys.exit(main())
