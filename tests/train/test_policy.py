from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multiserverrl.errors import CheckpointError
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.policy import Policy, load_policy, save_policy
from multiserverrl.train.task import Task
from multiserverrl.train.weights import publication_of, stamped, weights_fields
from tests.train.fakes import fresh_weights, plain_values

TASK = Task(obs_shape=(4,), num_actions=3, action_start=10)
CONFIG = TrainConfig(hidden="8")


def a_policy() -> Policy:
    weights = stamped(fresh_weights(CONFIG, TASK), env_steps=640, updates=32)
    return Policy(CONFIG, TASK, weights, version=5, mean=12.5)


def test_a_policy_comes_back_and_acts_as_it_did(tmp_path: Path) -> None:
    policy, path = a_policy(), tmp_path / "policy.safetensors"
    save_policy(path, policy)
    loaded = load_policy(path)
    assert (loaded.config, loaded.task, loaded.version, loaded.mean) == (CONFIG, TASK, 5, 12.5)
    obs = np.random.default_rng(1).normal(size=(50, 4))
    np.testing.assert_array_equal(loaded(obs), policy(obs))
    assert publication_of(loaded.weights).env_steps == 640


def test_actions_are_greedy_and_as_the_env_numbers_them() -> None:
    policy = a_policy()
    obs = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(policy(obs), plain_values(policy.weights, obs).argmax(axis=1) + 10)


def test_a_missing_policy_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no policy"):
        load_policy(tmp_path / "policy.safetensors")


def test_a_broken_policy_says_so(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(path, a_policy())
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="not a policy"):
        load_policy(path)


def test_a_flipped_bit_anywhere_in_a_policy_is_found(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(path, a_policy())
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 97):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="not a policy"):
            load_policy(path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path, policy = tmp_path / "policy.safetensors", a_policy()
    save_policy(path, Policy(TrainConfig(hidden="9"), TASK, policy.weights, 1))
    with pytest.raises(CheckpointError, match=r"layer0\.weight"):
        load_policy(path)


def test_the_stamp_is_part_of_the_declared_weights() -> None:
    weights = stamped(algorithm_for(CONFIG, TASK).init().weights(), 1, 2)
    assert {name: (str(a.dtype), a.shape) for name, a in weights.items()} == weights_fields(CONFIG, TASK)
