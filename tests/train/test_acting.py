from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from multiserverrl.train.acting import Actor, OwnActions, epsilon_ladder
from multiserverrl.train.channels import ActionRequest, Answer
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task
from tests.train.fakes import FakeCounters, FakeRun, FakeWeights, fresh_weights, plain_values

TASK = Task(obs_shape=(2,), num_actions=3)
CONFIG = TrainConfig(hidden="8", epsilon_start=0.0, epsilon_end=0.0)
SIZES = {0: 3, 1: 2}


def obs_of(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, 2)).astype(np.float32)


class Acting:
    """An actor, its weights, and what it counts."""

    def __init__(self, config: TrainConfig = CONFIG) -> None:
        self.weights, self.counters = FakeWeights(), FakeCounters()
        self.weights.publish(fresh_weights(CONFIG, TASK, 0), 7)
        control = FakeRun(set()).control("e")
        self.actor = Actor(config, TASK, SIZES, self.weights, self.counters.row("e"), control)


def best(acting: Acting, obs: np.ndarray) -> list[int]:
    snapshot = acting.weights.read()
    assert snapshot is not None
    return list(plain_values(snapshot[0], obs).argmax(axis=1).tolist())


def test_an_explorer_acts_with_its_own_copy_of_the_newest_weights() -> None:
    acting = Acting()
    client = OwnActions(acting.actor, 0)
    for version in (7, 8):
        obs = obs_of(version, 3)
        client.request(obs, np.zeros(3, bool))
        answer = client.actions(timeout_s=0.0)
        assert isinstance(answer, Answer)
        assert (answer.actions.tolist(), answer.weights_version) == (best(acting, obs), version)
        acting.weights.publish(fresh_weights(CONFIG, TASK, 5), version + 1)
    assert acting.counters.get("acted_version") == 8


def test_each_env_keeps_its_own_epsilon() -> None:
    ladder = epsilon_ladder(CONFIG, SIZES)
    together = np.concatenate([ladder[0], ladder[1]])
    np.testing.assert_allclose(together, [0.4 ** (1 + 7 * i / 4) for i in range(5)])
    assert epsilon_ladder(CONFIG, {3: 1})[3].tolist() == [0.4], "a single env has none to differ from"


def test_with_epsilon_per_env_the_first_envs_explore_most() -> None:
    acting = Acting(TrainConfig(hidden="8", exploration="per-env", epsilon_base=0.5, epsilon_spread=30.0))
    obs, random = obs_of(1, 5), np.zeros(5)
    for _ in range(400):
        requests = [ActionRequest(group, obs[rows], np.zeros(size, bool)) for group, size, rows in
                    ((0, 3, slice(0, 3)), (1, 2, slice(3, 5)))]  # fmt: skip
        acted = np.concatenate([answer.actions for answer in acting.actor.answers(requests)])
        random += acted != best(acting, obs)
    assert 80 < random[0] < 190, "half of its actions are random, a third of these the best by luck"
    assert random[4] == 0
    assert acting.counters.get("epsilon") == pytest.approx(np.mean([0.5 ** (1 + 30 * i / 4) for i in range(5)]))


def test_batches_are_counted_by_their_size() -> None:
    acting = Acting()
    for size in (1, 3, 4, 5, 3000):
        acting.actor.answers([ActionRequest(0, obs_of(0, size), np.zeros(size, bool))])
    counted = {limit: acting.counters.get(f"batch_rows_to_{limit}") for limit in (1, 2, 4, 8, 512, 1024)}
    assert counted == {1: 1, 2: 0, 4: 2, 8: 1, 512: 0, 1024: 1}


def test_a_deterministic_run_explores_by_its_env_steps_alone() -> None:
    config = replace(CONFIG, deterministic=True, epsilon_start=1.0, epsilon_end=1.0)
    one, other = Acting(config), Acting(config)
    request = ActionRequest(0, obs_of(0, 3), np.zeros(3, bool))
    one.actor.answers([ActionRequest(1, obs_of(0, 2), np.zeros(2, bool))])  # what was asked before
    for acting in (one, other):
        acting.counters.row("e").set("env_steps", 500)
    (first,), (second,) = one.actor.answers([request]), other.actor.answers([request])
    assert first.actions.tolist() == second.actions.tolist()


def test_a_network_that_torch_computes_is_ready_before_the_first_request() -> None:
    code = """
import sys
import numpy as np
from multiserverrl.train.acting import rehearse
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task
for obs_dtype, needs_torch in (("float32", False), ("uint8", True)):
    task = Task(obs_shape=(4, 5), num_actions=2, obs_dtype=obs_dtype)
    rehearse(algorithm_for(TrainConfig(hidden="8"), task), task, 3)
    assert ("torch" in sys.modules) == needs_torch, obs_dtype
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
