from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiserverrl.train.checkpoint import load_newest
from multiserverrl.train.policy import load_policy
from multiserverrl.train.weights import STAMP

FLAGS = [
    "--deterministic", "--seed", "3", "--count", "8", "--hidden", "32", "--warmup-steps", "100", "--batch-size", "32",
    "--barrier-steps", "600", "--eval-episodes", "4", "--episodes", "8", "--stop-at-return", "1e9",
]  # fmt: skip
OF_ROLLOUTS = [
    "--deterministic", "--algorithm", "pqn", "--no-recipe", "--seed", "3", "--count", "8", "--hidden", "32",
    "--rollout-steps", "8", "--barrier-steps", "600", "--eval-episodes", "4", "--episodes", "8",
    "--stop-at-return", "1e9",
]  # fmt: skip
OF_THE_CLOCK = ("wall_s",)
OF_ONE_PROCESS = (
    "mean_return",
    "inference",
)  # what it has seen


def start(directory: Path, *flags: str, begun_with: list[str] = FLAGS) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "multiserverrl", "train"]
    begin = (
        ["--resume", str(directory)]
        if directory.exists()
        else ["CartPole-v1", "--run-dir", str(directory), *begun_with]
    )
    return subprocess.Popen([*command, *begin, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=240.0)
    assert process.returncode == 0, errors.decode()


def left_by(directory: Path) -> dict[str, Any]:
    """All that a run leaves but times: its last checkpoint to the bit, its best policy, its result."""
    checkpoint = load_newest(directory / "checkpoints")
    assert checkpoint is not None
    policy = load_policy(directory / "policy.safetensors")
    result = json.loads((directory / "result.json").read_text())
    return {
        "state": {name: value for name, value in checkpoint.state.items() if name not in OF_THE_CLOCK},
        "arrays": {name: array.tobytes() for name, array in checkpoint.arrays.items()},
        "weights": {name: array.tobytes() for name, array in policy.weights.items() if name != STAMP},
        "version": (policy.version, policy.mean),
        "result": {
            name: value for name, value in result.items() if not name.endswith("_s") and name not in OF_ONE_PROCESS
        },
    }


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for part, content in wanted.items():
        assert found[part] == content, part


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(directory))
    left = left_by(directory)
    assert left["result"]["env_steps"] > 3 * 600, "there are barriers to be resumed from"
    assert left["result"]["updates"] > 100
    return left


def test_a_second_run_with_the_same_seed_is_equal_to_the_bit(unbroken: dict[str, Any], tmp_path: Path) -> None:
    finish(start(tmp_path / "run"))
    assert_equal(left_by(tmp_path / "run"), unbroken)


@pytest.mark.long
def test_who_holds_the_network_makes_no_difference_and_the_seed_does(unbroken: dict[str, Any], tmp_path: Path) -> None:
    finish(start(tmp_path / "run", "--inference", "explorer"))
    assert_equal(left_by(tmp_path / "run"), unbroken)
    finish(start(tmp_path / "other", "--seed", "4"))
    assert left_by(tmp_path / "other")["weights"] != unbroken["weights"]


def kill_and_resume(directory: Path, rng: np.random.Generator) -> int:
    """Kill a run at a random moment again and again, a few env steps further each time; how often it was."""
    kills = 0
    while True:
        process = start(directory)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0.8, 3.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0, errors.decode()
            return kills
        if kills >= 3:
            finish(start(directory))
            return kills


def test_a_run_that_is_killed_and_resumed_is_equal_to_one_that_was_not(
    unbroken: dict[str, Any], tmp_path: Path
) -> None:
    assert kill_and_resume(tmp_path / "run", np.random.default_rng(0)) > 0
    assert_equal(left_by(tmp_path / "run"), unbroken)


@pytest.mark.long
def test_rollouts_are_equal_to_the_bit_too(tmp_path: Path) -> None:
    finish(start(tmp_path / "unbroken", begun_with=OF_ROLLOUTS))
    unbroken = left_by(tmp_path / "unbroken")
    assert unbroken["result"]["updates"] > 100
    process = start(tmp_path / "run", begun_with=OF_ROLLOUTS)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1.5)
    process.kill()
    process.communicate()
    finish(start(tmp_path / "run"))
    assert_equal(left_by(tmp_path / "run"), unbroken)


@pytest.mark.long
def test_it_is_so_at_twenty_random_kills(unbroken: dict[str, Any], tmp_path: Path) -> None:
    kills, rng = 0, np.random.default_rng(1)
    while kills < 20:
        directory = tmp_path / f"run-{kills}"
        kills += kill_and_resume(directory, rng)
        assert_equal(left_by(directory), unbroken)
