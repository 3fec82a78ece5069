from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from multiserverrl.train.algorithms.pqn import TorchArithmetic
from multiserverrl.train.algorithms.pqn_numpy import NumpyArithmetic, network_fields, q_values
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks import fresh
from multiserverrl.train.task import Task

TASK = Task(obs_shape=(4,), num_actions=3)
CONFIG = TrainConfig(algorithm="pqn", hidden="24,16")


@pytest.mark.parametrize("max_grad_norm", [0.0, 10.0, 0.1], ids=["never", "unclipped", "clipped"])
@pytest.mark.parametrize("hidden", ["24,16", "8"])
def test_a_hundred_updates_are_those_of_torch(hidden: str, max_grad_norm: float) -> None:
    config = replace(CONFIG, hidden=hidden, max_grad_norm=max_grad_norm)
    ours, torchs = NumpyArithmetic(config, TASK), TorchArithmetic(config, TASK)
    rng = np.random.default_rng(0)
    before = ours.weights()
    for _ in range(100):
        obs, action = rng.normal(size=(32, 4)).astype(np.float32), rng.integers(0, 3, 32)
        wanted = rng.normal(size=32).astype(np.float32)
        losses = [arithmetic.descend(obs, action, wanted, 1e-3) for arithmetic in (ours, torchs)]
        assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-5)
    for name, array in ours.weights().items():
        np.testing.assert_allclose(array, torchs.weights()[name], atol=1e-5, err_msg=name)
        assert not np.array_equal(array, before[name])
    for name, array in ours.state().items():
        np.testing.assert_allclose(array, torchs.state()[name], atol=1e-5, err_msg=name)


def test_a_norm_makes_each_row_of_mean_0_and_variance_1_then_scales_and_shifts() -> None:
    rng = np.random.default_rng(0)
    config, task = replace(CONFIG, hidden="16"), Task(obs_shape=(4,), num_actions=16)
    weights = fresh(rng, network_fields(config, task))
    weights["encoder.layer0.scale"], weights["encoder.layer0.shift"] = (
        rng.normal(size=16).astype(np.float32) for _ in range(2)
    )
    weights["head.weight"], weights["head.bias"] = np.eye(16, dtype=np.float32), np.zeros(16, np.float32)
    obs = rng.normal(size=(9, 4)).astype(np.float32)
    for row, found in zip(obs, q_values(weights, obs), strict=True):
        linear = [
            float(w @ row + b)
            for w, b in zip(weights["encoder.layer0.weight"], weights["encoder.layer0.bias"], strict=True)
        ]
        mean = sum(linear) / 16
        variance = sum((value - mean) ** 2 for value in linear) / 16
        normed = [(value - mean) / (variance + 1e-5) ** 0.5 for value in linear]
        wanted = normed * weights["encoder.layer0.scale"] + weights["encoder.layer0.shift"]
        np.testing.assert_allclose(found, np.maximum(wanted, 0.0), atol=1e-4)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    arithmetic, rng = NumpyArithmetic(replace(CONFIG, max_grad_norm=0.0), TASK), np.random.default_rng(0)
    obs, action = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)
    wanted = rng.normal(size=8).astype(np.float32)
    tensors = {name: torch.tensor(array, dtype=torch.float64) for name, array in arithmetic.weights().items()}

    def loss(name: str, place: int, by: float) -> float:
        changed = {key: tensor.numpy().copy() for key, tensor in tensors.items()}
        changed[name].flat[place] += by
        error = q_values(changed, obs.astype(np.float64))[np.arange(8), action] - wanted
        return float((error**2).mean())

    before = arithmetic.weights()
    arithmetic.descend(obs, action, wanted, 1e-3)  # RAdam's first step goes along the gradient itself
    for name, array in arithmetic.weights().items():
        for place in rng.integers(0, array.size, 5):
            slope = (loss(name, place, 1e-5) - loss(name, place, -1e-5)) / 2e-5
            moved = float(before[name].flat[place] - array.flat[place]) / 1e-3
            assert moved == pytest.approx(slope, abs=2e-3), name


def test_what_is_published_has_the_declared_fields() -> None:
    fields = network_fields(CONFIG, TASK)
    found = NumpyArithmetic(CONFIG, TASK).weights()
    assert {name: (str(array.dtype), array.shape) for name, array in found.items()} == fields
    assert list(found) == list(fields)


def test_idle_weights_leave_no_denormals_in_the_moments() -> None:
    arithmetic, rng = NumpyArithmetic(CONFIG, TASK), np.random.default_rng(0)
    obs = np.zeros((8, 4), np.float32)  # the first layer's weights get no gradient
    for _ in range(1200):
        arithmetic.descend(obs, rng.integers(0, 3, 8), rng.normal(size=8).astype(np.float32), 1e-3)
    for moment in ("first", "second"):
        values = np.abs(arithmetic.state()[f"radam.{moment}.encoder.layer0.weight"])
        assert (values > np.finfo(np.float32).tiny).all()
