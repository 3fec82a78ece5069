"""Algorithms that are no DQN, in real processes on envs of a real server: extras, sequences, continuous actions."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiserverrl.launch.config import LaunchConfig
from multiserverrl.launch.evaluating import evaluate
from multiserverrl.launch.progress import Silence
from multiserverrl.launch.training import train
from multiserverrl.train.config import TrainConfig
from tests.train.plugged import REPOSITORY, plug_in

COMMON = {"reward_scale": 1.0, "warmup_steps": 50, "buffer_size": 5000, "batch_size": 32, "eval_episodes": 10}
DOUBLES = REPOSITORY / "tests" / "train" / "doubles.py"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "tests.train.doubles"
    plug_in(monkeypatch, tmp_path / "site", recurrent_q=f"{where}:RecurrentQ", quadratic=f"{where}:QuadraticActor")


@pytest.mark.parametrize("inference", ["central", pytest.param("explorer", marks=pytest.mark.long)])
def test_a_recurrent_algorithm_remembers_through_a_real_server(tmp_path: Path, inference: str) -> None:
    config = TrainConfig(
        algorithm="recurrent-q", sequence_length=6, replay_ratio=1.0, stop_at_return=1.0, inference=inference, **COMMON
    )
    outcome = train(LaunchConfig(f"{DOUBLES}:Cue", count=8, run_dir=str(tmp_path / "run")), config, Silence())
    assert outcome.result is not None and outcome.result["eval_mean"] == 1.0
    assert evaluate(outcome.run_dir, LaunchConfig(), 20).mean > 0.9


@pytest.mark.long
def test_a_continuous_algorithm_reaches_through_a_real_server(tmp_path: Path) -> None:
    config = TrainConfig(algorithm="quadratic", n_step=1, stop_at_return=-0.001, **COMMON)
    outcome = train(LaunchConfig(f"{DOUBLES}:Reach", count=4, run_dir=str(tmp_path / "run")), config, Silence())
    assert outcome.result is not None and outcome.result["eval_mean"] >= -0.001
