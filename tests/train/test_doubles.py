"""The protocol carries a recurrent and a continuous-action algorithm: learned by the real trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multiserverrl.train.acting import Actor, OwnActions
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.checkpoint import load_newest
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.evaluate import greedy_returns
from multiserverrl.train.policy import load_policy
from multiserverrl.train.task import task_of
from tests.train.doubles import Cue, Reach
from tests.train.fakes import FakeControl, FakeCounters, FakeRun, FakeWeights, local_envs, train_here
from tests.train.plugged import plug_in

COMMON = {"reward_scale": 1.0, "warmup_steps": 50, "buffer_size": 5000, "batch_size": 32, "eval_episodes": 20}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "tests.train.doubles"
    plug_in(monkeypatch, tmp_path / "site", recurrent_q=f"{where}:RecurrentQ", quadratic=f"{where}:QuadraticActor")


def recurrent() -> TrainConfig:
    return TrainConfig(algorithm="recurrent-q", sequence_length=6, replay_ratio=1.0, stop_at_return=1.0, **COMMON)


def test_a_recurrent_algorithm_learns_what_needs_a_memory(tmp_path: Path) -> None:
    outcome = train_here(recurrent(), Cue, 8, tmp_path)
    assert outcome.best == 1.0
    policy = load_policy(tmp_path / "policy.safetensors")
    assert greedy_returns(local_envs(Cue, 4), policy, 40, seed=1).mean() > 0.95
    checkpoint = load_newest(tmp_path / "checkpoints")
    assert checkpoint is not None and checkpoint.arrays["replay/state"].shape[1:] == (16,)


def test_with_its_state_zeroed_at_each_step_it_does_not(tmp_path: Path) -> None:
    config = replace(recurrent(), options={"forget": True})
    outcome = train_here(config, Cue, 8, tmp_path, max_env_steps=3000)
    assert outcome.counters.get("updates") > 300
    assert outcome.best < 0.95


def test_a_continuous_algorithm_learns_to_reach(tmp_path: Path) -> None:
    config = TrainConfig(algorithm="quadratic", n_step=1, stop_at_return=-0.001, **COMMON)
    assert train_here(config, Reach, 8, tmp_path).best >= -0.001
    policy = load_policy(tmp_path / "policy.safetensors")
    np.testing.assert_allclose(policy.weights["K"], [[0.8, -0.5]], atol=0.1)


@pytest.mark.parametrize("prioritised", [False, True])
def test_sequences_can_be_prioritised(tmp_path: Path, prioritised: bool) -> None:
    config = replace(recurrent(), prioritised=prioritised, stop_at_return=0.99)
    assert train_here(config, Cue, 8, tmp_path).best >= 0.99


def test_the_first_request_of_an_own_copy_has_a_state_of_zeros() -> None:
    config, task = recurrent(), task_of(Cue.observation_space, Cue.action_space)
    weights = FakeWeights()
    weights.publish(algorithm_for(config, task).init().weights(), 1)
    actor = Actor(config, task, {0: 2}, weights, FakeCounters().row("e"), FakeControl(FakeRun(set()), "e"))
    line, obs = OwnActions(actor, 0), np.eye(3, dtype=np.float32)[:2]
    line.request(obs, np.ones(2, bool))
    first = line.actions(0.0)
    line.request(obs, np.array([True, False]))
    second = line.actions(0.0)
    assert first is not None and second is not None
    np.testing.assert_array_equal(second.extras["state"][0], first.extras["state"][0])
    assert (second.extras["state"][1] != first.extras["state"][1]).any()
