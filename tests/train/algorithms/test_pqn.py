from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.pqn import PQN, PQNLearner, TorchArithmetic, cuts_of, lambda_returns
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import ObsPart, Task

TASK = Task(obs_shape=(3,), num_actions=2)
CONFIG = TrainConfig(algorithm="pqn", hidden="16,16", learning_rate=3e-3, learning_rate_end=1.0, gamma=0.9)
T, N = 7, 5


def rollout(seed: int, *, ends: float = 0.2, faults: float = 0.15) -> dict[str, Any]:
    """Each row's next observation is another one than the next row's: a test sees which of them was asked."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((T, N)) < ends
    return {
        "obs": rng.normal(size=(T, N, 3)).astype(np.float32),
        "action": rng.integers(0, 2, (T, N)),
        "reward": rng.normal(size=(T, N)).astype(np.float32),
        "terminated": terminated,
        "truncated": ~terminated & (rng.random((T, N)) < ends),
        "next_obs": rng.normal(size=(T, N, 3)).astype(np.float32),
        "valid": rng.random((T, N)) >= faults,
    }


def slow_return(batch: dict[str, Any], value: Any, t: int, n: int) -> float:
    """Equation 1, one step at a time."""
    reward = float(batch["reward"][t, n])
    if batch["terminated"][t, n]:
        return reward
    is_last = t == T - 1
    if batch["truncated"][t, n] or is_last or not batch["valid"][t + 1, n]:
        return reward + CONFIG.gamma * value(batch["next_obs"][t, n])
    after = CONFIG.td_lambda * slow_return(batch, value, t + 1, n)
    return reward + CONFIG.gamma * (after + (1.0 - CONFIG.td_lambda) * value(batch["obs"][t + 1, n]))


@pytest.mark.parametrize("seed", range(20))
def test_lambda_returns_are_those_of_a_slow_loop(seed: int) -> None:
    batch, learner = rollout(seed), PQN(CONFIG, TASK).init()
    wanted = learner.wanted(batch)
    assert wanted.shape == (T, N)
    assert wanted.dtype == np.float32

    def value(obs: Any) -> float:
        return float(learner.arithmetic.values(obs[None]).max())

    for t, n in np.argwhere(batch["valid"]):
        assert wanted[t, n] == pytest.approx(slow_return(batch, value, t, n), abs=1e-5)


@pytest.mark.parametrize("at", range(T))
@pytest.mark.parametrize("kind", ["terminated", "truncated", "fault"])
def test_an_end_at_any_place_cuts_what_came_before_off_from_what_follows(kind: str, at: int) -> None:
    batch, learner = rollout(0, ends=0.0, faults=0.0), PQN(CONFIG, TASK).init()
    if kind == "fault":
        batch["valid"][at] = False
    else:
        batch[kind][at] = True
    before = learner.wanted(batch)
    batch["reward"][at + 1 :] += 100.0
    batch["obs"][at + 1 :] += 100.0
    if kind == "fault":
        batch["reward"][at] += 100.0
        batch["obs"][at] += 100.0
    after = learner.wanted(batch)
    assert np.array_equal(before[:at], after[:at])
    assert np.array_equal(before[at], after[at]) == (kind != "fault")


def test_one_step_and_whole_returns_are_the_two_ends_of_lambda() -> None:
    reward, none = np.array([[1.0], [2.0], [4.0]], np.float32), np.zeros((3, 1), bool)
    next_value = np.array([[10.0], [20.0], [30.0]], np.float32)
    cut = cuts_of(none, ~none)
    assert cut.ravel().tolist() == [False, False, True]
    one_step = lambda_returns(reward, none, cut, next_value, 0.5, 0.0)
    assert one_step.ravel().tolist() == [6.0, 12.0, 19.0]
    whole = lambda_returns(reward, none, cut, next_value, 0.5, 1.0)
    assert whole.ravel().tolist() == [1.0 + 0.5 * (2.0 + 0.5 * 19.0), 2.0 + 0.5 * 19.0, 19.0]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_rollout_is_learned_by_heart(backend: str) -> None:
    batch = rollout(1)
    batch["terminated"][:] = True  # no bootstrapping: the returns stand still
    learner = PQN(replace(CONFIG, backend=backend), TASK).init()
    losses = [float(learner.update(batch, env_steps=0).loss) for _ in range(50)]
    assert losses[-1] < 0.1 * losses[0]


def test_an_update_is_epochs_of_minibatches_and_leaves_out_what_is_not_valid() -> None:
    learner = PQN(replace(CONFIG, epochs=3, minibatches=2), TASK).init()
    batch = rollout(2)
    batch["reward"][~batch["valid"]] = np.nan
    batch["obs"][~batch["valid"]] = np.nan
    updated = learner.update(batch, env_steps=0)
    assert updated.updates == learner.updates == 6
    assert np.isfinite(float(updated.loss))
    assert all(np.isfinite(array).all() for array in learner.weights().values())


def test_a_rollout_of_fewer_steps_than_minibatches_makes_fewer_updates() -> None:
    batch = rollout(3)
    batch["valid"][:] = False
    batch["valid"][2, :2] = True
    assert PQN(replace(CONFIG, epochs=1, minibatches=4), TASK).init().update(batch, 0).updates == 2


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_learner_goes_on_from_its_state_as_if_nothing_had_been(backend: str) -> None:
    config = replace(CONFIG, backend=backend)
    learner, again = PQN(config, TASK).init(), PQN(replace(config, seed=7), TASK).init()
    again.config = config
    for number in range(4):
        learner.update(rollout(number), env_steps=0)
    again.load_state(learner.state())
    for number in range(4, 8):
        learner.update(rollout(number), env_steps=0)
        again.update(rollout(number), env_steps=0)
    for name, array in learner.state().items():
        assert np.array_equal(array, again.state()[name]), name


def test_either_arithmetic_goes_on_from_the_others_state() -> None:
    numpy_learner, torch_learner = (PQN(replace(CONFIG, backend=name), TASK).init() for name in ("numpy", "torch"))
    for number in range(10):
        numpy_learner.update(rollout(number), env_steps=0)
    torch_learner.load_state(numpy_learner.state())
    assert {name: array.shape for name, array in numpy_learner.state().items()} == {
        name: array.shape for name, array in torch_learner.state().items()
    }
    for number in range(10, 14):
        numpy_learner.update(rollout(number), env_steps=0)
        torch_learner.update(rollout(number), env_steps=0)
    for name, array in numpy_learner.weights().items():
        np.testing.assert_allclose(array, torch_learner.weights()[name], atol=1e-5)


def test_the_state_of_another_network_is_refused_and_changes_nothing() -> None:
    learner = PQN(CONFIG, TASK).init()
    before = learner.weights()
    with pytest.raises(
        ValueError, match=r"weights 'encoder.layer0.weight' are \(8, 3\), this run's network has \(16, 3\)"
    ):
        learner.load_state(PQN(replace(CONFIG, hidden="8"), TASK).init().state())
    assert all(np.array_equal(array, before[name]) for name, array in learner.weights().items())


def test_acting_is_greedy_on_q_but_for_epsilon() -> None:
    algorithm = algorithm_for(CONFIG, TASK)
    assert isinstance(algorithm, PQN)
    learner, rng = algorithm.init(), np.random.default_rng(0)
    weights, obs = algorithm.prepare(learner.weights()), rng.normal(size=(500, 3)).astype(np.float32)
    greedy = algorithm.act(weights, obs, {}, 0.0, rng)[0]
    assert np.array_equal(greedy, learner.arithmetic.values(obs).argmax(axis=1))
    differing = (algorithm.act(weights, obs, {}, 0.5, rng)[0] != greedy).mean()
    assert 0.15 < differing < 0.35  # half of the random actions are greedy, too
    assert set(algorithm.act_at_random(100, rng)[0].tolist()) == {0, 1}


def test_the_learning_rate_falls_by_env_steps() -> None:
    config = replace(CONFIG, learning_rate_end=0.25, learning_rate_steps=1000)
    moved = []
    for env_steps in (0, 500, 5000):
        learner = PQN(config, TASK).init()
        before = learner.weights()["head.bias"]
        learner.update(rollout(0), env_steps)
        moved.append(np.abs(learner.weights()["head.bias"] - before).max())
    assert moved[1] / moved[0] == pytest.approx(0.5, abs=0.1)
    assert moved[2] / moved[0] == pytest.approx(0.25, abs=0.1)


def test_epsilon_falls_by_env_steps() -> None:
    algorithm = PQN(replace(CONFIG, epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=100), TASK)
    assert [algorithm.exploration(steps) for steps in (0, 50, 500)] == pytest.approx([1.0, 0.6, 0.2])


IMAGE = Task(obs_shape=(10, 10, 2), num_actions=2, obs_dtype="uint8")
PARTS = (ObsPart("a", "float32", (2,)), ObsPart("b", "uint8", (9, 9, 1)))
DICT = Task(obs_shape=(), num_actions=2, obs_dtype="(2,)<f4,(9, 9, 1)|u1,", obs_parts=PARTS)
STACK = Task(obs_shape=(4, 12, 12), num_actions=2, obs_dtype="uint8", frame_stack=4)


def seen(rng: np.random.Generator, task: Task, *rows: int) -> Any:
    if not task.obs_parts:
        return rng.integers(0, 256, (*rows, *task.obs_shape)).astype(task.obs_dtype)
    obs = np.zeros(rows, task.obs_dtype)
    obs["f0"], obs["f1"] = rng.normal(size=(*rows, 2)), rng.integers(0, 256, (*rows, 9, 9, 1))
    return obs


@pytest.mark.parametrize("task", [IMAGE, DICT, STACK], ids=["image", "dict", "stack"])
def test_what_only_torch_can_see_is_learned_acted_on_and_kept(task: Task) -> None:
    rng, batch = np.random.default_rng(0), rollout(1)
    batch["obs"], batch["next_obs"] = seen(rng, task, T, N), seen(rng, task, T, N)
    config = replace(CONFIG, minibatches=1, epochs=2)
    algorithm = PQN(config, task)
    assert not algorithm.is_plain
    learner = algorithm.init()
    assert all(np.isfinite(learner.wanted(batch)[batch["valid"]]))
    batch["terminated"][:] = True
    losses = [float(learner.update(batch, env_steps=0).loss) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    found = learner.weights()
    assert {name: (str(array.dtype), array.shape) for name, array in found.items()} == algorithm.weights_fields
    actions = algorithm.act(algorithm.prepare(found), batch["obs"][0], {}, 0.0, rng)[0]
    assert np.array_equal(actions, learner.arithmetic.values(batch["obs"][0]).argmax(axis=1))
    again = PQN(replace(config, seed=5), task).init()
    again.load_state(learner.state())
    assert all(np.array_equal(array, again.state()[name]) for name, array in learner.state().items())
    with pytest.raises(ConfigError, match="--backend is 'numpy': it has no image or Dict networks"):
        PQN(replace(CONFIG, backend="numpy"), task)


def test_what_it_cannot_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match="continuous, not Discrete"):
        PQN(CONFIG, Task(obs_shape=(3,), num_actions=0, action_shape=(2,)))


def test_the_torch_arithmetic_is_what_backend_torch_learns_with() -> None:
    learner = PQN(replace(CONFIG, backend="torch"), TASK).init()
    assert isinstance(learner, PQNLearner)
    assert isinstance(learner.arithmetic, TorchArithmetic)
