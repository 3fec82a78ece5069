"""The NumPy learner makes the torch learner's updates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.dqn import DQNLearner
from multiserverrl.train.algorithms.dqn_numpy import NumpyDQNLearner
from multiserverrl.train.task import Task
from tests.train.algorithms.batches import CONFIG, OF_NUMPY, TASK, combinations, name_of, random_batch


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
@pytest.mark.parametrize("settings", combinations(*OF_NUMPY), ids=name_of)
def test_it_is_equal_to_torch_over_100_updates_and_a_renewed_target(
    settings: dict[str, Any], max_grad_norm: float
) -> None:
    config = replace(CONFIG, target_update=30, max_grad_norm=max_grad_norm, **settings)
    mine, theirs = NumpyDQNLearner(config, TASK), DQNLearner(config, TASK)
    for number in range(100):
        batch = random_batch(number, is_weighted=config.prioritised)
        told, wanted = mine.update(batch, 100 * number), theirs.update(batch, 100 * number)
        assert float(told.loss) == pytest.approx(float(wanted.loss), abs=1e-5)
        np.testing.assert_allclose(told.errors, wanted.errors, atol=1e-5)
    for name, tensor in theirs.online.items():
        np.testing.assert_allclose(mine.online[name], tensor.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(mine.target[name], theirs.target[name].numpy(), atol=1e-5)


@pytest.mark.parametrize("settings", combinations("double", "dueling"), ids=name_of)
def test_so_it_is_where_targets_are_clipped(settings: dict[str, Any]) -> None:
    config = replace(CONFIG, target_update=30, **settings)
    mine, theirs = NumpyDQNLearner(config, TASK), DQNLearner(config, TASK)
    free = NumpyDQNLearner(replace(config, clip_targets=False), TASK)
    differences = []
    for number in range(100):
        batch = random_batch(number)
        batch["reward"] *= np.float32(0.003)  # far less than fresh networks promise
        told, wanted, otherwise = (learner.update(batch, 0).errors for learner in (mine, theirs, free))
        np.testing.assert_allclose(told, wanted, atol=1e-5)
        differences.append(np.abs(told - otherwise).max())
    assert np.median(differences) > 1e-3, "clipping made a difference"
    for name, tensor in theirs.online.items():
        np.testing.assert_allclose(mine.online[name], tensor.detach().numpy(), atol=1e-5)


def test_bytes_are_learned_from_as_torch_does() -> None:
    task = Task((4,), 3, obs_dtype="uint8")
    mine, theirs = NumpyDQNLearner(CONFIG, task), DQNLearner(CONFIG, task)
    rng = np.random.default_rng(0)
    for _ in range(3):
        seen = {name: rng.integers(0, 256, (32, 4), np.uint8) for name in ("obs", "next_obs")}
        told, wanted = (learner.update({**random_batch(0), **seen}, 0) for learner in (mine, theirs))
        np.testing.assert_allclose(told.errors, wanted.errors, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"dueling": True, "head_hidden": 5}])
def test_either_goes_on_from_the_others_checkpoint(settings: dict[str, Any]) -> None:
    config = replace(CONFIG, **settings)
    mine, theirs = NumpyDQNLearner(config, TASK), DQNLearner(config, TASK)
    for number in range(10):
        theirs.update(random_batch(number), 0)
    mine.load_state(theirs.state())
    again = DQNLearner(config, TASK)
    again.load_state(mine.state())
    assert mine.updates == again.updates == 10
    batch = random_batch(77)
    batch["reward"] /= 10.0
    for learner in (mine, theirs, again):  # a target network that has burst: targets are the range in the checkpoint
        state = learner.state()
        state["target.encoder.layer1.bias"] += np.float32(1e3)
        learner.load_state(state)
    told = [float(learner.update(batch, 0).loss) for learner in (mine, theirs, again)]
    assert told == pytest.approx([told[0]] * 3, rel=1e-5, abs=1e-6)
    for name, tensor in theirs.online.items():
        np.testing.assert_allclose(mine.online[name], tensor.detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(again.online[name].detach().numpy(), tensor.detach().numpy(), atol=1e-6)


def test_one_batch_can_be_learned_by_heart() -> None:
    learner = NumpyDQNLearner(replace(CONFIG, learning_rate=5e-3, dueling=True), TASK)
    batch = {**random_batch(0), "discount": np.zeros(32, np.float32)}
    first = learner.update(batch, 0).loss
    for _ in range(600):
        last = learner.update(batch, 0)
    assert last.loss < first / 200
    assert np.abs(last.errors).max() < 0.2


def test_weights_of_another_network_are_refused() -> None:
    mine = NumpyDQNLearner(CONFIG, TASK)
    with pytest.raises(ValueError, match="this run's network"):
        mine.load_state(NumpyDQNLearner(replace(CONFIG, hidden="16,9"), TASK).state())


def test_published_weights_are_a_copy() -> None:
    mine = NumpyDQNLearner(CONFIG, TASK)
    before = mine.weights()
    kept = {name: array.copy() for name, array in before.items()}
    mine.update(random_batch(1), 0)
    assert all((before[name] == kept[name]).all() for name in before)
    assert any((mine.online[name] != kept[name]).any() for name in before)


def test_idle_weights_leave_no_denormals_in_adams_moments() -> None:
    mine = NumpyDQNLearner(CONFIG, TASK)
    batch = random_batch(1)
    batch["obs"] = np.zeros_like(batch["obs"])  # the first layer's weights get no gradient
    for _ in range(1200):
        mine.update(batch, 0)
    for moment in ("exp_avg", "exp_avg_sq"):
        values = np.abs(mine.state()[f"adam.{moment}.encoder.layer0.weight"])
        assert ((values == 0.0) | (values > np.finfo(np.float32).tiny)).all()


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, NumpyDQNLearner),
        ({"dueling": True, "prioritised": True}, NumpyDQNLearner),
        ({"backend": "numpy"}, NumpyDQNLearner),
        ({"backend": "torch"}, DQNLearner),
        ({"noisy": True}, DQNLearner),
        ({"distributional": "qr"}, DQNLearner),
    ],
)
def test_numpy_learns_where_it_can_unless_torch_is_asked_for(settings: dict[str, Any], kind: type) -> None:
    assert type(algorithm_for(replace(CONFIG, **settings), TASK).init()) is kind


def test_torch_learns_images() -> None:
    assert type(algorithm_for(CONFIG, Task((8, 8), 2, obs_dtype="uint8")).init()) is DQNLearner
