"""The NumPy learner makes the torch learner's updates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.dqn import DoubleDQNLearner
from multiserverrl.train.algorithms.dqn_numpy import NumpyDoubleDQNLearner
from tests.train.algorithms.test_dqn import CONFIG, TASK, numpy_weights, random_batch


def test_it_is_equal_to_torch_over_100_updates_and_a_renewed_target() -> None:
    config = replace(CONFIG, target_update=30)
    mine, theirs = NumpyDoubleDQNLearner(config, TASK), DoubleDQNLearner(config, TASK)
    for number in range(100):
        batch = random_batch(number)
        told, wanted = mine.update(batch, 100 * number), theirs.update(batch, 100 * number)
        assert told.loss == pytest.approx(wanted.loss, abs=1e-5)
        np.testing.assert_allclose(told.errors, wanted.errors, atol=1e-5)
    for name, array in numpy_weights(theirs.online).items():
        np.testing.assert_allclose(mine.online[name], array, atol=1e-5)
        np.testing.assert_allclose(mine.target[name], theirs.target[name].numpy(), atol=1e-5)


def test_either_goes_on_from_the_others_checkpoint() -> None:
    mine, theirs = NumpyDoubleDQNLearner(CONFIG, TASK), DoubleDQNLearner(CONFIG, TASK)
    for number in range(10):
        theirs.update(random_batch(number), 0)
    mine.load_state(theirs.state())
    again = DoubleDQNLearner(CONFIG, TASK)
    again.load_state(mine.state())
    assert mine.updates == again.updates == 10
    batch = random_batch(77)
    told = [learner.update(batch, 0).loss for learner in (mine, theirs, again)]
    assert told == pytest.approx([told[0]] * 3, abs=1e-6)
    for name, array in numpy_weights(theirs.online).items():
        np.testing.assert_allclose(mine.online[name], array, atol=1e-6)
        np.testing.assert_allclose(again.online[name].detach().numpy(), array, atol=1e-6)


def test_weights_of_another_network_are_refused() -> None:
    mine = NumpyDoubleDQNLearner(CONFIG, TASK)
    with pytest.raises(ValueError, match="this run's network"):
        mine.load_state(NumpyDoubleDQNLearner(replace(CONFIG, hidden="16,9"), TASK).state())


def test_published_weights_are_a_copy() -> None:
    mine = NumpyDoubleDQNLearner(CONFIG, TASK)
    before = mine.weights()
    kept = {name: array.copy() for name, array in before.items()}
    mine.update(random_batch(1), 0)
    assert all((before[name] == kept[name]).all() for name in before)
    assert any((mine.online[name] != kept[name]).any() for name in before)


def test_idle_weights_leave_no_denormals_in_adams_moments() -> None:
    mine = NumpyDoubleDQNLearner(CONFIG, TASK)
    batch = random_batch(1)
    batch["obs"] = np.zeros_like(batch["obs"])  # the first layer's weights get no gradient
    for _ in range(1200):
        mine.update(batch, 0)
    for moment in ("exp_avg", "exp_avg_sq"):
        values = np.abs(mine.state()[f"adam.{moment}.layer0.weight"])
        assert ((values == 0.0) | (values > np.finfo(np.float32).tiny)).all()


@pytest.mark.parametrize(("backend", "kind"), [("numpy", NumpyDoubleDQNLearner), ("torch", DoubleDQNLearner)])
def test_the_setting_chooses_the_arithmetic(backend: str, kind: type) -> None:
    assert type(algorithm_for(replace(CONFIG, backend=backend), TASK).init()) is kind
