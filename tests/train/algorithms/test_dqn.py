from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.dqn import DoubleDQN, DoubleDQNLearner
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks import mlp
from multiserverrl.train.task import Task

TASK = Task(obs_shape=(2, 2), num_actions=3, action_start=5)
CONFIG = TrainConfig(hidden="16,8", batch_size=32, target_update=1000)


def random_batch(seed: int, B: int = 32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.normal(size=(B, 2, 2)).astype(np.float32),
        "action": rng.integers(0, 3, B),
        "reward": rng.normal(size=B).astype(np.float32),
        "next_obs": rng.normal(size=(B, 2, 2)).astype(np.float32),
        "discount": np.where(rng.random(B) < 0.3, 0.0, 0.9).astype(np.float32),
        "weights_version": np.ones(B, np.int64),
    }


def slow_errors(online: dict[str, Any], target: dict[str, Any], batch: dict[str, Any]) -> list[float]:
    """Double Q-learning's temporal-difference errors, one transition at a time."""
    errors = []
    for row in range(len(batch["reward"])):
        value = mlp(online, batch["obs"][row].reshape(1, -1))[0, batch["action"][row]]
        next_obs = batch["next_obs"][row].reshape(1, -1)
        chosen = int(np.argmax(mlp(online, next_obs)[0]))
        wanted = batch["reward"][row] + batch["discount"][row] * mlp(target, next_obs)[0, chosen]
        errors.append(float(wanted - value))
    return errors


def huber(errors: Any) -> float:
    sizes = np.abs(errors)
    return float(np.mean(np.where(sizes < 1, 0.5 * sizes**2, sizes - 0.5)))


def numpy_weights(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def test_the_target_is_the_slow_double_q_target_and_the_loss_its_huber_loss() -> None:
    learner = DoubleDQNLearner(CONFIG, TASK)
    for seed in range(30):  # online and target networks drift apart
        learner.update(random_batch(seed), 0)
    online, target = numpy_weights(learner.online), numpy_weights(learner.target)
    batch = random_batch(99)
    single_max = batch["reward"] + batch["discount"] * mlp(target, batch["next_obs"].reshape(32, -1)).max(axis=1)
    updated = learner.update(batch, 0)
    slow = slow_errors(online, target, batch)
    np.testing.assert_allclose(updated.errors, slow, atol=1e-5)
    assert updated.loss == pytest.approx(huber(slow), abs=1e-5)
    own = mlp(online, batch["obs"].reshape(32, -1))[np.arange(32), batch["action"]]
    assert np.abs(single_max - own - slow).max() > 0.01, "plain DQN's target would have passed as well"


def test_one_batch_can_be_learned_by_heart() -> None:
    learner = DoubleDQNLearner(replace(CONFIG, learning_rate=5e-3), TASK)
    batch = {**random_batch(0), "discount": np.zeros(32, np.float32)}
    first = learner.update(batch, 0).loss
    for _ in range(600):
        last = learner.update(batch, 0)
    assert last.loss < first / 200
    assert np.abs(last.errors).max() < 0.2


def test_the_target_network_is_renewed_after_exactly_so_many_updates() -> None:
    learner = DoubleDQNLearner(replace(CONFIG, target_update=5), TASK)
    fresh = numpy_weights(learner.target)
    for update in range(1, 11):
        learner.update(random_batch(update), 0)
        online, target = numpy_weights(learner.online), numpy_weights(learner.target)
        is_renewed = all((target[name] == online[name]).all() for name in online)
        assert is_renewed == (update % 5 == 0)
        if update < 5:
            assert all((target[name] == fresh[name]).all() for name in fresh)


def test_the_learning_rate_falls_to_its_end_and_stays() -> None:
    learner = DoubleDQNLearner(replace(CONFIG, learning_rate=1.0, learning_rate_end=0.1, learning_rate_steps=100), TASK)
    assert [learner.learning_rate(steps) for steps in (0, 50, 90, 1000)] == pytest.approx([1.0, 0.5, 0.1, 0.1])


def test_a_learner_goes_on_from_its_state_exactly_as_it_would_have() -> None:
    first = DoubleDQNLearner(CONFIG, TASK)
    for seed in range(10):
        first.update(random_batch(seed), 0)
    second = DoubleDQNLearner(replace(CONFIG, seed=7), TASK)
    second.load_state(first.state())
    for seed in range(10, 20):
        for learner in (first, second):
            learner.update(random_batch(seed), 0)
    for name, array in first.state().items():
        np.testing.assert_array_equal(second.state()[name], array)


def test_a_state_can_be_taken_before_the_first_update() -> None:
    first, second = DoubleDQNLearner(CONFIG, TASK), DoubleDQNLearner(replace(CONFIG, seed=1), TASK)
    second.load_state(first.state())
    losses = [learner.update(random_batch(0), 0).loss for learner in (first, second)]
    assert losses[0] == losses[1]


def test_the_state_of_another_network_is_refused() -> None:
    other = DoubleDQNLearner(replace(CONFIG, hidden="32"), TASK)
    with pytest.raises(ValueError, match=r"layer0\.weight"):
        DoubleDQNLearner(CONFIG, TASK).load_state(other.state())


def test_published_weights_do_not_change_with_later_updates() -> None:
    learner = DoubleDQNLearner(CONFIG, TASK)
    weights = learner.weights()
    before = {name: array.copy() for name, array in weights.items()}
    learner.update(random_batch(0), 0)
    assert all((weights[name] == before[name]).all() for name in weights)
    assert any((learner.weights()[name] != before[name]).any() for name in weights)


def test_the_weights_are_those_that_the_algorithm_declares() -> None:
    algorithm = algorithm_for(CONFIG, TASK)
    weights = algorithm.init().weights()
    assert {name: (str(a.dtype), a.shape) for name, a in weights.items()} == algorithm.weights_fields


def test_greedy_actions_are_the_best_and_random_ones_come_in_the_share_asked_for() -> None:
    algorithm, rng = DoubleDQN(CONFIG, TASK), np.random.default_rng(0)
    weights = algorithm.init().weights()
    obs = random_batch(0, B=3000)["obs"]
    best = mlp(weights, obs.reshape(3000, -1)).argmax(axis=1)
    greedy, _ = algorithm.act(weights, obs, {}, 0.0, rng)
    np.testing.assert_array_equal(greedy, best)
    explored, _ = algorithm.act(weights, obs, {}, 0.3, rng)
    assert np.mean(explored != best) == pytest.approx(0.3 * 2 / 3, abs=0.03)
    uniform, _ = algorithm.act_at_random(3000, rng)
    np.testing.assert_allclose(np.bincount(uniform, minlength=3) / 3000, 1 / 3, atol=0.04)


def test_epsilon_falls_linearly_to_its_end() -> None:
    algorithm = DoubleDQN(replace(CONFIG, epsilon_start=1.0, epsilon_end=0.1, epsilon_steps=100), TASK)
    assert [algorithm.exploration(steps) for steps in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(
    "task", [Task(obs_shape=(4,), num_actions=0, action_shape=(1,)), Task((8, 8), 2, obs_dtype="uint8")]
)
def test_tasks_that_it_cannot_learn_are_refused(task: Task) -> None:
    with pytest.raises(ConfigError):
        algorithm_for(CONFIG, task)
