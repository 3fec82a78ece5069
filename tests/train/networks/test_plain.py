from __future__ import annotations

import numpy as np
import torch

from multiserverrl.train.networks import mlp, mlp_fields, new_mlp


def test_the_numpy_network_is_torchs() -> None:
    weights = new_mlp(np.random.default_rng(0), 3, (16, 8), 2)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )
    for parameter, array in zip(network.parameters(), weights.values(), strict=True):
        parameter.data = torch.from_numpy(array)
    inputs = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(mlp(weights, inputs), network(torch.from_numpy(inputs)).detach().numpy(), atol=1e-6)


def test_acting_leaves_observations_and_weights_as_they_were() -> None:
    weights = new_mlp(np.random.default_rng(0), 2, (4,), 2)
    inputs = np.ones((3, 2), np.float32)
    before = {name: array.copy() for name, array in weights.items()}
    mlp(weights, inputs)
    np.testing.assert_array_equal(inputs, 1.0)
    for name in weights:
        np.testing.assert_array_equal(weights[name], before[name])


def test_fresh_weights_are_named_by_their_seed_and_lie_within_the_layers_bound() -> None:
    first, same, other = (new_mlp(np.random.default_rng(seed), 4, (128,), 2) for seed in (0, 0, 1))
    for name, (dtype, shape) in mlp_fields(4, (128,), 2).items():
        assert first[name].dtype == dtype
        assert first[name].shape == shape
        np.testing.assert_array_equal(first[name], same[name])
        assert (first[name] != other[name]).any()
    assert 0.45 < np.abs(first["layer0.weight"]).max() <= 0.5
    assert np.abs(first["layer0.bias"]).max() <= 0.5
    assert np.abs(first["layer1.weight"]).max() <= 1 / np.sqrt(128)
