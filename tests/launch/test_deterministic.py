from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from multiserverrl.train.checkpoint import load_newest
from multiserverrl.train.policy import load_policy

FLAGS = [
    "--deterministic", "--seed", "3", "--count", "4", "--hidden", "16", "--warmup-steps", "50", "--batch-size", "16",
    "--barrier-steps", "200", "--eval-episodes", "2", "--episodes", "8", "--stop-at-return", "1e9",
]  # fmt: skip
OF_ROLLOUTS = [
    "--deterministic", "--algorithm", "pqn", "--no-recipe", "--seed", "3", "--count", "8", "--hidden", "32",
    "--rollout-steps", "8", "--barrier-steps", "200", "--eval-episodes", "4", "--episodes", "8",
    "--stop-at-return", "1e9",
]  # fmt: skip
OF_TORCH = [
    "--deterministic", "--algorithm", "rainbow", "--no-recipe", "--seed", "3", "--count", "4", "--hidden", "16",
    "--warmup-steps", "50", "--batch-size", "16", "--barrier-steps", "200", "--eval-episodes", "2", "--episodes", "20",
    "--stop-at-return", "1e9",
]  # fmt: skip
OF_THE_CLOCK = ("wall_s",)
OF_ONE_PROCESS = (
    "mean_return",
    "inference",
)  # what it has seen


def start(directory: Path, *flags: str, begun_with: list[str] = FLAGS) -> subprocess.Popen[bytes]:
    """A new run, or what goes on with the one that was begun in this directory."""
    command = [sys.executable, "-m", "multiserverrl", "train"]
    begin = ["--resume", str(directory)]
    if not (directory / "config.json").exists():
        shutil.rmtree(directory, ignore_errors=True)  # killed before it had said what it is
        begin = ["CartPole-v1", "--run-dir", str(directory), *begun_with]
    return subprocess.Popen([*command, *begin, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> float:
    """How long it went on, in seconds."""
    began_s = time.monotonic()
    _, errors = process.communicate(timeout=240.0)
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - began_s


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it still ran then, and was killed."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, errors.decode()
    return False


def left_by(directory: Path) -> dict[str, Any]:
    """All that a run leaves but times: its last checkpoint to the bit, its best policy, its result."""
    checkpoint = load_newest(directory / "checkpoints")
    assert checkpoint is not None
    policy = load_policy(directory / "policy.safetensors")
    result = json.loads((directory / "result.json").read_text())
    return {
        "state": {name: value for name, value in checkpoint.state.items() if name not in OF_THE_CLOCK},
        "arrays": {name: array.tobytes() for name, array in checkpoint.arrays.items()},
        "weights": {name: array.tobytes() for name, array in policy.weights.items()},
        "version": (policy.version, policy.mean),
        "result": {
            name: value for name, value in result.items() if not name.endswith("_s") and name not in OF_ONE_PROCESS
        },
    }


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for part, content in wanted.items():
        assert found[part] == content, part


class Unbroken(NamedTuple):
    directory: Path
    left: dict[str, Any]
    took_s: float


def run_unbroken(directory: Path, begun_with: list[str]) -> Unbroken:
    took_s = finish(start(directory, begun_with=begun_with))
    left = left_by(directory)
    assert left["result"]["env_steps"] > 3 * 200, "there are barriers to be resumed from"
    assert left["result"]["updates"] > 100
    return Unbroken(directory, left, took_s)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return run_unbroken(tmp_path_factory.mktemp("unbroken") / "run", FLAGS)


def test_a_second_run_with_the_same_seed_is_equal_to_the_bit(unbroken: Unbroken, tmp_path: Path) -> None:
    finish(start(tmp_path / "run"))
    assert_equal(left_by(tmp_path / "run"), unbroken.left)
    files = [directory / "policy.safetensors" for directory in (tmp_path / "run", unbroken.directory)]
    assert files[0].read_bytes() == files[1].read_bytes(), "as `cmp` would find"


@pytest.mark.long
def test_who_holds_the_network_makes_no_difference_and_the_seed_does(unbroken: Unbroken, tmp_path: Path) -> None:
    finish(start(tmp_path / "run", "--inference", "explorer"))
    assert_equal(left_by(tmp_path / "run"), unbroken.left)
    finish(start(tmp_path / "other", "--seed", "4"))
    assert left_by(tmp_path / "other")["weights"] != unbroken.left["weights"]


def kill_behind(process: subprocess.Popen[bytes], checkpoint: Path) -> None:
    """Kill it when it has written this checkpoint, or a later one."""
    while max((path.name for path in checkpoint.parent.glob("checkpoint-*")), default="") < checkpoint.name:
        with pytest.raises(subprocess.TimeoutExpired):  # it runs
            process.wait(0.01)
    process.kill()
    process.communicate()


def kill_and_resume(directory: Path, longest_s: float, rng: np.random.Generator) -> int:
    """Kill a run at up to three random moments, then let it end; how often it was killed."""
    for kills in range(3):
        if not kill_after(start(directory), rng.uniform(0.2, 1.0) * longest_s):
            return kills
    finish(start(directory))
    return 3


def test_a_run_that_is_killed_and_resumed_is_equal_to_one_that_was_not(unbroken: Unbroken, tmp_path: Path) -> None:
    kill_behind(start(tmp_path / "run"), tmp_path / "run" / "checkpoints" / "checkpoint-000000003")
    assert not (tmp_path / "run" / "result.json").exists()
    finish(start(tmp_path / "run"))
    assert_equal(left_by(tmp_path / "run"), unbroken.left)


def test_so_is_one_that_was_killed_before_it_could_say_how_it_ended(unbroken: Unbroken, tmp_path: Path) -> None:
    shutil.copytree(unbroken.directory, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    finish(start(tmp_path / "run"))
    assert_equal(left_by(tmp_path / "run"), unbroken.left)


@pytest.mark.long
@pytest.mark.parametrize("flags", [OF_ROLLOUTS, OF_TORCH], ids=["pqn", "rainbow, with torch"])
def test_rollouts_and_all_parts_of_rainbow_are_equal_to_the_bit_too(tmp_path: Path, flags: list[str]) -> None:
    unbroken = run_unbroken(tmp_path / "unbroken", flags)
    kill_behind(start(tmp_path / "run", begun_with=flags), tmp_path / "run" / "checkpoints" / "checkpoint-000000003")
    finish(start(tmp_path / "run", begun_with=flags))
    assert_equal(left_by(tmp_path / "run"), unbroken.left)


@pytest.mark.long
def test_it_is_so_at_twenty_random_kills(unbroken: Unbroken, tmp_path: Path) -> None:
    kills, longest_s, rng = 0, unbroken.took_s, np.random.default_rng(1)
    for number in itertools.count():
        killed = kill_and_resume(tmp_path / f"run-{number}", longest_s, rng)
        assert_equal(left_by(tmp_path / f"run-{number}"), unbroken.left)
        kills += killed
        if kills >= 20:
            return
        if not killed:  # the machine has become faster
            longest_s /= 2.0
