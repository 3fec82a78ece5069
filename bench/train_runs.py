"""What the rows of `train.py` run: whole `multiserverrl train` processes, each in a run directory of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims import Numbers
from learner import one_start
from multiserverrl.observe.metrics import read_metrics

__all__ = ["Curve", "Pace", "Solve", "Updates", "at_steps", "column_at", "how_far", "numbers_of"]

COMMAND = [sys.executable, "-m", "multiserverrl"]
BACKENDS = ("numpy", "torch")
NEVER = ("--stop-at-return", "1e9")
SAME_WORK = (  # whatever the recipes say: one update of 128 per 4 env steps
    "--no-recipe", "--hidden", "128,128", "--batch-size", "128", "--replay-ratio", "0.25",
)  # fmt: skip


@dataclass(frozen=True)
class Solve:
    """Train until solved, then play `confirm` greedy episodes more with the weights that were kept."""

    env: str
    flags: tuple[str, ...] = ()
    max_seconds: float = 120.0
    confirm: int = 100

    def __call__(self, seed: int) -> Numbers:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            began_s = time.time()
            command = [*COMMAND, "train", self.env, "--seed", str(seed), "--run-dir", str(run), *self.flags]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            try:
                process.wait(self.max_seconds)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(30.0)
                return {"solved": 0.0, **how_far(run)}
            process_s = time.time() - began_s
            found = numbers_of(json.loads((run / "result.json").read_text()), began_s, process_s)
            if self.confirm and found["solved"]:
                found["confirm"] = self._confirmed(run)
            return found

    def _confirmed(self, run: Path) -> float:
        command = [*COMMAND, "eval", str(run), "--episodes", str(self.confirm), "--json"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(told)["mean"])


def how_far(run: Path) -> Numbers:
    """What the last line of a run's metrics tells."""
    path = run / "metrics.jsonl"
    last = read_metrics(path)[-1:] if path.exists() else []
    return {
        name: float(line[name])
        for line in last
        for name in ("env_steps", "updates", "eval_mean")
        if line[name] is not None
    }


def numbers_of(result: dict[str, Any], began_s: float, process_s: float) -> Numbers:
    """Of result.json; `start_s` runs from the shell to the first env step. Unsolved, a run has no time to solved."""
    found = {name: float(result[name]) for name in ("env_steps", "updates")}
    found |= {"solved": float(result["solved"]), "start_s": result["first_step_unix_s"] - began_s}
    if result["solved"]:
        found |= {"wall_s": result["wall_s"], "process_s": process_s, "eval_mean": result["eval_mean"]}
    return found


@dataclass(frozen=True)
class Pace:
    """Env steps/s while training, by backend, from the first second of learning on; evaluations go on meanwhile."""

    seconds: float = 6.0
    backends: tuple[str, ...] = BACKENDS

    def __call__(self, seed: int) -> Numbers:
        return {backend: self._of(backend, seed) for backend in self.backends}

    def _of(self, backend: str, seed: int) -> float:
        with training("CartPole-v1", seed, (*SAME_WORK, "--backend", backend, *NEVER)) as run:
            lines = lines_until(run, lambda lines: _seconds(lines) >= 1.0 + self.seconds)
        first = next(line for line in lines if line["wall_s"] >= lines[0]["wall_s"] + 1.0)
        return (lines[-1]["env_steps"] - first["env_steps"]) / (lines[-1]["wall_s"] - first["wall_s"])


@dataclass(frozen=True)
class Updates:
    """Updates/s of a run's learner as a share of a bare loop's, by backend: `learner.py` has it."""

    seconds: float = 6.0

    def __call__(self, seed: int) -> Numbers:
        return {backend: one_start(backend, self.seconds).whole.figure for backend in BACKENDS}


@dataclass(frozen=True)
class Curve:
    """Mean return of the last 100 training episodes at some numbers of env steps, and the wall at the last of them."""

    env: str
    flags: tuple[str, ...]
    at: tuple[int, ...]
    max_seconds: float = 3600.0

    def __call__(self, seed: int) -> Numbers:
        with training(self.env, seed, (*self.flags, *NEVER)) as run:
            lines = lines_until(run, lambda lines: lines[-1]["env_steps"] >= self.at[-1], self.max_seconds)
        points = [(line["env_steps"], line["mean_return"]) for line in lines]
        wall_s = next(line["wall_s"] for line in lines if line["env_steps"] >= self.at[-1])
        return {"wall_s": wall_s, **at_steps(points, self.at)}


def at_steps(points: Sequence[tuple[float, float | None]], at: Sequence[int]) -> Numbers:
    """By column: the first mean return that is told at or after so many env steps."""
    known = [(steps, mean) for steps, mean in points if mean is not None]
    found = {column_at(steps): [mean for reached, mean in known if reached >= steps] for steps in at}
    return {name: means[0] for name, means in found.items() if means}


def column_at(steps: int) -> str:
    """As in "at_200k"."""
    return f"at_{steps // 1000}k"


@contextmanager
def training(env: str, seed: int, flags: Sequence[str]) -> Iterator[Path]:
    """The directory of a run that goes on until the block is left."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*COMMAND, "train", env, "--seed", str(seed), "--run-dir", str(run), *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield run
        finally:
            process.terminate()
            process.wait(60.0)


def lines_until(
    run: Path, is_enough: Callable[[list[dict[str, Any]]], bool], timeout_s: float = 120.0
) -> list[dict[str, Any]]:
    """The metrics since the first update, once they are enough; TimeoutError when they never are."""
    give_up_at_s = time.monotonic() + timeout_s
    path = run / "metrics.jsonl"
    while time.monotonic() < give_up_at_s:
        time.sleep(0.2)
        lines = [line for line in read_metrics(path) if line["updates"]] if path.exists() else []
        if lines and is_enough(lines):
            return lines
    raise TimeoutError(f"{path} does not have what was waited for after {timeout_s:g} s")


def _seconds(lines: list[dict[str, Any]]) -> float:
    return float(lines[-1]["wall_s"] - lines[0]["wall_s"])
